"""The variants of one method's training step that take turns: plain, ours, and plain with one measure each."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.layouts import compiled, lay_out, master_weights
from benchmarks.methods import Method, run_step
from benchmarks.plain_networks import Spade
from benchmarks.plain_steps import Measures, PlainStep
from benchmarks.timing import Turn
from monai_synth.engines import SynthesisTrainer, reused_memory


@dataclass
class Bench:
    """Everything of one method that is timed. The variants share networks and optimisers, which take much memory."""

    method: Method
    plain: PlainStep
    ours: dict[str, SynthesisTrainer]
    batch: dict[str, Tensor]

    @classmethod
    def make(cls, method: Method, batch_size: int) -> "Bench":
        """Plain and ours with the same weights."""
        generator, discriminator = method.make_ours()
        plain = method.make_plain(generator, discriminator)
        fp32 = method.make_trainer(generator, discriminator)
        bf16 = method.make_trainer(generator, discriminator, precision="bf16")
        bf16.optimizers = fp32.optimizers
        return cls(method, plain, {"fp32": fp32, "bf16": bf16}, method.batch(batch_size))

    def gap(self, *, channels_last: bool) -> float:
        """Greatest difference of a loss of the first step, plain and ours in fp32, over 1 or the loss if larger.

        Without dropout, whose masks depend on the layout.

        Raises:
            ValueError: if the losses have other names.
        """
        with self.turn_of_ours(channels_last=channels_last), _no_dropout(self.plain.networks.values(), self.players):
            torch.manual_seed(2)
            theirs = self.plain(self.batch)
            torch.manual_seed(2)
            ours = run_step(self.ours["fp32"], self.batch)
        if ours.keys() != theirs.keys():
            raise ValueError(f"The losses are {sorted(ours)} and, in plain PyTorch, {sorted(theirs)}.")
        return max(abs((ours[name] - theirs[name]).item()) / max(1.0, abs(theirs[name].item())) for name in ours)

    def gflop(self) -> dict[str, float]:
        """Floating-point operations of a step, plain and ours."""
        found = {}
        for name, step in (("plain", self.run_plain), ("ours", partial(self.run_ours, "fp32"))):
            with FlopCounterMode(display=False) as counter:
                step()
            found[name] = counter.get_total_flops() / 1e9
        return found

    @property
    def players(self) -> list[nn.Module]:
        """Our networks."""
        return list(self.ours["fp32"].objective.players.values())

    def run_plain(self) -> None:
        """One plain step."""
        self.plain(self.batch)

    def run_ours(self, precision: str) -> None:
        """One step of ours."""
        run_step(self.ours[precision], self.batch)

    @contextmanager
    def turn_of_plain(
        self,
        measures: Measures,
        *,
        fused: bool = False,
        channels_last: bool = False,
        joined: bool = False,
        kept: bool = False,
        is_compiled: bool = False,
    ) -> Iterator[None]:
        """Make the plain step what a variant wants, from here to the end of its turn."""
        self._forget_gradients()
        self.plain.measures = measures
        for name, network in self.plain.networks.items():
            lay_out(network, self.plain.optimizers[name], channels_last=channels_last)
            for group in self.plain.optimizers[name].param_groups:
                group["fused"] = fused
        for module in self.plain.generator.modules():
            if isinstance(module, Spade):
                module.is_joined = joined
        with ExitStack() as stack:
            stack.enter_context(reused_memory(kept))
            if is_compiled:
                stack.enter_context(compiled(*self.plain.networks.values()))
            yield

    @contextmanager
    def turn_of_ours(self, *, channels_last: bool, has_master: bool = False) -> Iterator[None]:
        """Lay our weights out, and keep the memory as ``SynthesisTrainer.run`` does, to the end of the turn."""
        self._forget_gradients()
        trainer = self.ours["fp32"]
        for name, network in trainer.objective.players.items():
            lay_out(network, trainer.optimizers[name], channels_last=channels_last)
        with ExitStack() as stack:
            stack.enter_context(reused_memory())
            if has_master:
                stack.enter_context(master_weights(self.ours["bf16"]))
            yield

    def _forget_gradients(self) -> None:
        for network in (*self.plain.networks.values(), *self.players):
            network.zero_grad()
        gc.collect()


def main_turns(bench: Bench, rounds: int) -> dict[str, Turn]:
    """Plain, ours in fp32 and ours in bf16."""
    ours = partial(bench.turn_of_ours, channels_last=bench.method.channels_last)
    return {
        "plain": Turn(bench.run_plain, partial(bench.turn_of_plain, Measures()), rounds=rounds),
        "ours fp32": Turn(partial(bench.run_ours, "fp32"), ours, rounds=rounds, warm_up=2),
        "ours bf16": Turn(partial(bench.run_ours, "bf16"), ours, rounds=rounds, warm_up=2),
    }


def measure_turns(bench: Bench, rounds: int, *, has_compile: bool) -> dict[str, Turn]:
    """The plain step with one measure each, and ours with one more or less."""
    method, other = type(bench.plain).__name__, not bench.method.channels_last

    def plain(measures: Measures | None = None, warm_up: int = 1, **options: bool) -> Turn:
        context = partial(bench.turn_of_plain, measures or Measures(), **options)
        return Turn(bench.run_plain, context, rounds=rounds, warm_up=warm_up)

    def ours(precision: str, context: Callable[..., object]) -> Turn:
        return Turn(partial(bench.run_ours, precision), context, rounds=rounds, warm_up=2)  # type: ignore[arg-type]

    found: dict[str, Turn] = {}
    if method != "PlainOasis":
        found["the generator runs twice (costs)"] = plain(Measures(forward_twice=True))
    if method == "PlainPix2PixHD":
        found["the discriminator sees the fake once"] = plain(Measures(share_fake=True))
        found["fake and real in one discriminator pass"] = plain(Measures(join_passes=True))
    if method != "PlainPix2Pix":
        found["discriminator frozen in the generator's turn"] = plain(Measures(freeze=True))
    if method == "PlainOasis":
        found["gamma and beta of SPADE in one convolution"] = plain(joined=True)
    found["fused Adam of torch"] = plain(fused=True)
    found["memory kept between steps"] = plain(kept=True, warm_up=2)
    found["channels_last"] = plain(channels_last=True)
    found["bf16 autocast"] = plain(Measures(autocast=True))
    if has_compile:
        found["compiled networks"] = plain(is_compiled=True, warm_up=3)
    word = "with" if other else "without"
    for precision in ("fp32", "bf16"):
        found[f"ours {precision}, {word} channels_last"] = ours(
            precision, partial(bench.turn_of_ours, channels_last=other)
        )
    if method != "PlainOasis":  # spectral norms need the fp32 weights
        context = partial(bench.turn_of_ours, channels_last=bench.method.channels_last, has_master=True)
        found["ours bf16, weights in bf16 and an fp32 master"] = ours("bf16", context)
    return found


@contextmanager
def _no_dropout(*groups: object) -> Iterator[None]:
    dropouts = [m for group in groups for network in group for m in network.modules() if isinstance(m, nn.Dropout)]  # type: ignore[attr-defined]
    probabilities = [module.p for module in dropouts]
    for module in dropouts:
        module.p = 0.0
    try:
        yield
    finally:
        for module, probability in zip(dropouts, probabilities, strict=True):
            module.p = probability
