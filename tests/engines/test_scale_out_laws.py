"""Two processes with half of each batch are one with all, for every objective; and what they cannot share is said."""

from typing import Any

import pytest
import torch

from tests.engines.on_ranks import NUM_CASES, TRAININGS, evaluate, in_double, run_ranks, train

LAWFUL = [name for name in TRAININGS if name != "spade with published divergence"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All of them in one start of two processes, which costs more than the trainings."""
    return run_ranks(tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", LAWFUL)
def test_two_processes_with_half_of_each_batch_equal_one(name: str, ranks: list[dict[str, Any]]) -> None:
    alone, half = train(name, wrap=in_double), train(name, wrap=in_double, part=slice(0, None, 2))
    first, second = (rank[name] for rank in ranks)
    assert first["weights"].keys() == second["weights"].keys() == alone["weights"].keys()
    for key, value in alone["weights"].items():
        assert torch.equal(first["weights"][key], second["weights"][key]), key
        torch.testing.assert_close(
            first["weights"][key], value, atol=1e-6, rtol=1e-6, msg=lambda m, key=key: f"{key}: {m}"
        )
    # Every player, or what a process has alone would pass for what both have.
    for player in {key.split(".")[0] for key in alone["weights"]}:
        gaps = [(alone["weights"][k] - v).abs().max() for k, v in half["weights"].items() if k.startswith(player)]
        assert max(gaps) > 1e-4, f"halves of the {player} differ too little to prove anything"
    for step, (one, a, b) in enumerate(zip(alone["losses"], first["losses"], second["losses"], strict=True)):
        for term, value in one.items():
            assert (a[term] + b[term]) / 2 == pytest.approx(value, abs=1e-5, rel=1e-5), (step, term)


def test_classes_are_balanced_over_the_images_of_all_processes(ranks: list[dict[str, Any]]) -> None:
    """Each by itself, as the published code does, they would give a class that one of them lacks another weight."""
    alone = train("oasis", wrap=in_double)["losses"][0]["g_gan"]
    parts = [train("oasis", wrap=in_double, part=slice(rank, None, 2))["losses"][0]["g_gan"] for rank in (0, 1)]
    assert abs(sum(parts) / 2 - alone) > 1e-3
    assert sum(rank["oasis"]["losses"][0]["g_gan"] for rank in ranks) / 2 == pytest.approx(alone, abs=1e-5)


def test_the_published_divergence_is_summed_over_the_images_of_each_process(ranks: list[dict[str, Any]]) -> None:
    name = "spade with published divergence"
    alone = train(name, wrap=in_double)["losses"][0]["g_kld"]
    shared = sum(rank[name]["losses"][0]["g_kld"] for rank in ranks) / 2
    assert shared == pytest.approx(alone / 2, rel=1e-5)


def test_an_odd_number_of_cases_is_gathered_once_each(ranks: list[dict[str, Any]]) -> None:
    alone = evaluate()
    # Patients have the errors 1, 3, 5 and 2, 4 HU.
    assert alone == {"mae_hu": pytest.approx(3.0, abs=1e-4), "cases": [f"case{k}" for k in range(NUM_CASES)]}
    for rank in ranks:
        assert rank["evaluation"]["cases"] == alone["cases"]
        assert rank["evaluation"]["mae_hu"] == pytest.approx(alone["mae_hu"], abs=1e-9)


def test_batch_norm_on_cpus_is_each_process_its_own_with_one_result_and_said_once(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["batch norm"] for rank in ranks)
    assert any(key.endswith("running_mean") for key in first)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    sentence = "UNetGenerator has batch norm, which CPU processes do not synchronise"
    assert [rank["said"].count(sentence) for rank in ranks] == [1, 0]
