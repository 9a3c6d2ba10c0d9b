"""``python -m monai_synth`` is ``monai-synth``."""

from monai_synth.cli import main

if __name__ == "__main__":
    main()
