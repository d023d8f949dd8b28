"""The doctor's report: console, `check.json`, `check.html`."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.markup import escape

from trash_seg.data.examine import Examination, PartSummary
from trash_seg.data.findings import RULES, Finding
from trash_seg.data.pictures import NUM_OVERLAYS, choose_overlays, overlay, picture_of
from trash_seg.palette import palette
from trash_seg.rundir import write_text

SCHEMA_VERSION = 1
NUM_EXAMPLES = 3
"""Findings of a rule that the console shows."""
NUM_LISTED, NUM_PICTURES, NUM_SIZES = 100, 6, 12
"""Findings and pictures of a rule, and image sizes, that the page shows."""


def _by_rule(findings: list[Finding]) -> dict[str, list[Finding]]:
    """Errors first, then as RULES orders them."""
    groups = defaultdict(list)
    for finding in findings:
        groups[finding.code].append(finding)
    return {code: groups[code] for code in sorted(groups, key=lambda c: (not RULES[c].error, list(RULES).index(c)))}


def verdict(examination: Examination) -> str:
    """One line."""
    errors, warnings = examination.num_errors, examination.num_warnings
    if errors:
        return (
            f"{errors} error{'s' * (errors > 1)}, {warnings} warning{'s' * (warnings != 1)}: training would refuse it"
        )
    return f"no errors, {warnings} warning{'s' * (warnings != 1)}: it can be trained on"


def print_summary(examination: Examination, *, console: Console) -> None:
    """What was read, and each rule that is broken with a few examples."""
    config = examination.config
    console.print(f"[bold]data={escape(config.name)}[/]  {escape(str(examination.source.root))}", soft_wrap=True)
    for name, part in examination.parts.items():
        console.print(f"  {name}: {part.num_images} images, {part.num_annotations} annotations")
    for code, findings in _by_rule(examination.findings).items():
        rule = RULES[code]
        severity = "[red]error[/]  " if rule.error else "[yellow]warning[/]"
        console.print(
            f"{severity} [bold]{code}[/] × {len(findings)}: {rule.title}; the trainer {rule.action}", soft_wrap=True
        )
        for finding in findings[:NUM_EXAMPLES]:
            console.print(f"        {escape(finding.message)}", soft_wrap=True, highlight=False)
        if len(findings) > NUM_EXAMPLES:
            console.print(f"        … and {len(findings) - NUM_EXAMPLES} more")
    if not examination.images_read:
        console.print("  images were not opened (--annotations-only)")
    console.print(f"[bold]{verdict(examination)}[/]")


def write_json(path: Path, examination: Examination) -> None:
    """One record a finding, and the tables."""
    classes = examination.config.classes
    content = {
        "schema": SCHEMA_VERSION,
        "data": examination.config.name,
        "root": str(examination.source.root),
        "images_read": examination.images_read,
        "errors": examination.num_errors,
        "warnings": examination.num_warnings,
        "counts": dict(sorted(Counter(finding.code for finding in examination.findings).items())),
        "findings": [_record(finding) for finding in examination.findings],
        "splits": {
            name: {
                "images": part.num_images,
                "annotations": part.num_annotations,
                "sizes": [[width, height, count] for (width, height), count in part.sizes.most_common()],
                "classes": {label: vars(count) for label, count in zip(classes, part.classes, strict=True)},
            }
            for name, part in examination.parts.items()
        },
    }
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _record(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": "error" if finding.rule.error else "warning",
        "file": finding.file,
        "image": finding.image,
        "annotation": finding.annotation,
        "other": finding.other,
        "message": finding.message,
        "action": finding.rule.action,
    }


def write_page(path: Path, examination: Examination) -> None:
    """One HTML file that needs no network."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trash_seg.data"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("check.html").render(
        config=examination.config,
        root=str(examination.source.root),
        examination=examination,
        verdict=verdict(examination),
        rules=[_rule_section(code, group, examination) for code, group in _by_rule(examination.findings).items()],
        classes=_class_rows(examination),
        annotated=list(_annotated_parts(examination)),
        sizes=_size_rows(examination),
        sheet=_contact_sheet(examination),
    )
    write_text(path, page)


def _rule_section(code: str, findings: list[Finding], examination: Examination) -> dict[str, Any]:
    pictures: list[dict[str, str]] = []
    for finding in findings[: 3 * NUM_PICTURES]:
        uri = picture_of(finding, examination) if examination.images_read and len(pictures) < NUM_PICTURES else None
        if uri is not None:
            pictures.append({"uri": uri, "text": finding.message})
    return {
        "code": code, "rule": RULES[code], "count": len(findings),
        "findings": findings[:NUM_LISTED], "pictures": pictures,
    }  # fmt: skip


def _annotated_parts(examination: Examination) -> dict[str, PartSummary]:
    return {
        name: part
        for name, part in examination.parts.items()
        if part.num_annotations or any(count.pixels for count in part.classes[1:])
    }


def _class_rows(examination: Examination) -> list[dict[str, Any]]:
    parts = _annotated_parts(examination)
    totals = {name: sum(count.pixels for count in part.classes) for name, part in parts.items()}
    return [
        {
            "name": label,
            "color": "#{:02x}{:02x}{:02x}".format(*color),
            "counts": [
                {**vars(part.classes[index]), "share": part.classes[index].pixels / max(totals[name], 1)}
                for name, part in parts.items()
            ],
        }
        for index, (label, color) in enumerate(
            zip(examination.config.classes, palette(len(examination.config.classes)), strict=True)
        )
    ]


def _size_rows(examination: Examination) -> dict[str, Any]:
    sizes: Counter[tuple[int, int]] = sum((part.sizes for part in examination.parts.values()), Counter())
    most = sizes.most_common(NUM_SIZES)
    rows = [{"size": f"{w} × {h}", "count": count, "share": count / most[0][1]} for (w, h), count in most]
    return {"rows": rows, "distinct": len(sizes), "others": sum(sizes.values()) - sum(count for _, count in most)}


def _contact_sheet(examination: Examination) -> list[dict[str, Any]]:
    if not examination.images_read:
        return []
    annotated = _annotated_parts(examination)
    sheet = []
    for name in annotated:
        records = examination.source.parts[name].records
        for record in choose_overlays(records, number=NUM_OVERLAYS // len(annotated)):
            drawn = overlay(record, examination)
            if drawn is not None:
                sheet.append({"uri": drawn[0], "classes": drawn[1], "name": record.file_name, "part": name})
    return sheet
