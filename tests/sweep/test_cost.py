import pytest

from trash_seg.sweep.cost import CostModel, Work


def work(name: str, *, parameters: float, gflops: float, epochs: int = 4) -> Work:
    return Work(name, epochs=epochs, batch_size=8, parameters=parameters, gflops=gflops)


def seconds(entry: Work) -> float:
    return 5 + entry.epochs * (2 + 3 * entry.gflops + 0.1 * entry.parameters / 1e6)


RUNS = [work(f"{p}-{g}-{e}", parameters=p * 1e6, gflops=g, epochs=e) for p in (5, 20) for g in (1, 4) for e in (2, 4)]


def test_nothing_measured_predicts_nothing() -> None:
    assert CostModel([]).seconds(RUNS[0]) is None
    assert CostModel([]).memory(RUNS[0]) is None


def test_finds_the_law_behind_the_measured_runs() -> None:
    model = CostModel((run, seconds(run), 1e9 + 8e6 * run.gflops * run.batch_size) for run in RUNS)
    new = work("new", parameters=40e6, gflops=9)
    assert model.seconds(new) == pytest.approx(seconds(new), rel=1e-6)
    assert model.memory(new) == pytest.approx(1e9 + 8e6 * 9 * 8, rel=1e-6)


def test_replicates_are_predicted_by_their_mean() -> None:
    model = CostModel([(RUNS[0], 10.0, None), (RUNS[0], 14.0, None), *((run, seconds(run), None) for run in RUNS[1:])])
    assert model.seconds(RUNS[0]) == 12
    assert model.memory(RUNS[0]) is None


def test_one_measured_run_gives_a_ratio() -> None:
    model = CostModel([(work("a", parameters=10e6, gflops=1), 30.0, None)])
    longer = model.seconds(work("b", parameters=10e6, gflops=4))
    assert longer is not None
    assert 30 < longer < 120
