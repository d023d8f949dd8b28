"""Builds the leaderboard: rows of runs, groups of comparable rows, a standing for each ranked row."""

import json
import string
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from trash_seg.report import stats
from trash_seg.report.board import UNRANKED_ORDER, Board, Group, Row, Standing
from trash_seg.report.collect import Run
from trash_seg.report.noise import Floats, Noise, Replicates, spreads_more

SOFTWARE = ("trash_seg", "torch", "torchvision", "segmentation-models-pytorch", "timm", "albumentations")


def build(runs: Sequence[Run], *, rank_by: str, sigma: float | None, margin: float) -> Board:
    """Runs as a leaderboard.

    Args:
        runs: Of a sweep.
        rank_by: `best` or `last` epoch.
        sigma: Assumed noise instead of the measured one.
        margin: A smaller difference does not count.
    """
    rows, settings = _rows(runs, rank_by)
    groups = _groups(rows, settings, sigma=sigma, margin=margin)
    for row in rows:
        row.flags += _flags(row)
    ranked = [row for group in groups for row in sorted(group.rows, key=_within_group)]
    others = sorted((row for row in rows if row.standing is None), key=_among_others)
    classes = list(dict.fromkeys(name for row in ranked + others for name in row.iou))
    return Board(ranked + others, groups, list(runs), classes, rank_by, margin)


def _within_group(row: Row) -> tuple[int, float, float, int]:
    """Tier, then cheaper first."""
    assert row.standing is not None
    gflops = np.inf if row.gflops is None else row.gflops
    parameters = np.inf if row.parameters is None else row.parameters
    return row.standing.tier, gflops, parameters, row.standing.rank


def _among_others(row: Row) -> tuple[int, str, str]:
    order = UNRANKED_ORDER.index(row.state) if row.state in UNRANKED_ORDER else len(UNRANKED_ORDER)
    return order, row.encoder, row.decoder


def comparability(run: Run) -> dict[str, str]:
    """What two runs must share to be ranked together: label → value."""
    config, data = run.config, dict(run.config.get("data") or {})
    training = config.get("training") or {}
    classes, class_of = data.pop("classes", None), data.pop("class_of", None)
    for key in ("root", "encoder_weights", "name"):
        data.pop(key, None)
    return {
        "classes": _words(classes),
        "class map": _words(class_of),
        "data": _words(run.data.get("fingerprint")),
        "data settings": _words(data),
        "image size": _words(training.get("image_size")),
        "epochs": _words(run.epochs),
        "pretrained": "no" if run.weights is None else "yes",
        "software": ", ".join(f"{name} {run.environment.get(name, '?')}" for name in SOFTWARE),
    }


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _rows(runs: Sequence[Run], rank_by: str) -> tuple[list[Row], dict[int, dict[str, str]]]:
    """One row a configuration, split where its done seeds are not comparable; and each ranked row's setting by id."""
    by_hash: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        by_hash[(run.hash,) if run.hash else (run.name, "unhashed")].append(run)
    rows: list[Row] = []
    settings: dict[int, dict[str, str]] = {}
    for members in by_hash.values():
        parts: dict[str, list[Run]] = defaultdict(list)
        for run in members:
            scored = run.state == "done" and (run.best if rank_by == "best" else run.last) is not None
            parts[json.dumps(comparability(run)) if scored else ""].append(run)
        rest = parts.pop("", [])
        for key, done in parts.items() or [("", [])]:
            model = next(iter(done or [run for run in rest if run.config] or rest))
            row = Row(model.encoder, model.decoder, model.weights, model.hash, [*done, *rest], done, rank_by)
            rows.append(row)
            rest = []  # seeds without a result stand in one row only
            if done:
                settings[id(row)] = json.loads(key)
    return rows, settings


def _groups(
    rows: Sequence[Row], settings: dict[int, dict[str, str]], *, sigma: float | None, margin: float
) -> list[Group]:
    members: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if id(row) in settings:
            members[json.dumps(settings[id(row)])].append(row)
    ordered = sorted(members.items(), key=lambda item: -sum(len(row.done) for row in item[1]))
    groups: list[Group] = []
    for index, (key, part) in enumerate(ordered):
        group = _ranked(part, json.loads(key), letter=_letters(index), sigma=sigma, margin=margin)
        if groups:
            differs = [label for label, value in group.setting.items() if value != groups[0].setting[label]]
            for row in part:
                row.flags.append(f"not comparable with group A: other {', '.join(differs)}")
        groups.append(group)
    return groups


def _letters(index: int) -> str:
    """A to Z, then AA, AB and so on."""
    text = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        text = string.ascii_uppercase[digit] + text
    return text


def _ranked(rows: Sequence[Row], setting: dict[str, str], *, letter: str, sigma: float | None, margin: float) -> Group:
    """Gives each row its standing."""
    ordered = sorted(rows, key=lambda row: (-float(row.scores().mean()), row.encoder, row.decoder, row.config))
    scores = [row.scores() for row in ordered]
    replicates = Replicates(scores, sigma=sigma)
    tiers = stats.tiers(replicates, margin=margin)
    believed = stats.posterior(replicates, tiers)
    ranks = stats.repeat_ranks(believed)
    for number, tier in enumerate(tiers, 1):
        low, high = tier.intervals(replicates.means)
        for i, ci_low, ci_high in zip(tier.members.tolist(), low.tolist(), high.tolist(), strict=True):
            row = ordered[i]
            row.group = letter
            row.standing = Standing(
                tier=number,
                rank=i + 1,
                rank_low=int(ranks.low[i]),
                rank_high=int(ranks.high[i]),
                sd=float(np.std(scores[i], ddof=1)) if len(scores[i]) > 1 else None,
                ci_low=ci_low,
                ci_high=ci_high,
                p_first=float(ranks.p_first[i]),
            )
            row.flags += ["sigma assumed"] if tier.noise.assumed else []
            row.flags += _flags_of_spread(scores[i], tier.noise, identical=bool(replicates.identical[i]))
    return Group(letter, setting, ordered, tiers[0].noise, ranks, believed)


def _flags_of_spread(scores: Floats, noise: Noise, *, identical: bool) -> list[str]:
    if identical:
        return [f"its seeds agree to {np.std(scores, ddof=1):.4f}: did it learn? Not used for sigma"]
    if spreads_more(scores, noise):
        return [f"its seeds spread by {np.std(scores, ddof=1):.4f}, sigma is {noise.sigma:.4f}: look at its curves"]
    return []


def _flags(row: Row) -> list[str]:
    counts = Counter(run.state for run in row.runs)
    flags = [f"{num} of {len(row.runs)} seeds {state}" for state, num in counts.items() if state != "done" and row.done]
    if len(row.done) == 1:
        flags.append("one seed")
    for run in row.runs:
        if run.state in ("running", "interrupted", "pruned"):
            best = "" if run.best is None else f", best so far {run.best.miou:.4f}"
            written = f", last written {run.updated}" if run.state == "running" and run.updated else ""
            flags.append(f"{run.state}: seed {run.seed}, epoch {run.epoch} of {run.epochs}{best}{written}")
        elif run.state == "done" and len(run.curves.get("miou", ())) != run.epoch:
            flags.append(f"seed {run.seed}: history has {len(run.curves.get('miou', ()))} of {run.epoch} epochs")
    if not row.done and row.runs[0].reason is not None and row.state not in ("running", "interrupted"):
        flags.append(row.runs[0].reason)
    return flags
