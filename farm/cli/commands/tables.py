"""Sheets with axes: from jobs and files to a table, and from that to a picture and a page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from farm.cli.commands.pictures import means_file, read_file, read_job
from farm.cli.view.output import note, note_unreadable, plural, size
from farm.errors import FarmError, FetchRefused, InvalidInput, ObjectDamaged, ObjectMissing, ObjectTooLarge, WrongState
from farm.jobs.arrangement import Arranged, Arrangement, Fields, arrange, axes_of, told_apart
from farm.jobs.describe import common, describe, shared_prompt
from farm.jobs.fields import called, field_name
from farm.jobs.grid import AXES

if TYPE_CHECKING:
    from farm.client import FarmClient
    from farm.jobs.spec import JobSpec
    from farm.jobs.status import JobStatus
    from farm.pictures.lettering import Lettering
    from farm.pictures.table import Cell, Page, Table

_NO_JOB = "no job"
_MOST_FIELDS_NAMED = 3


@dataclass(frozen=True)
class Source:
    """A job or a file with its place; `missing` says why it has no picture, and is empty if it has one."""

    arranged: Arranged
    name: str
    read: Callable[[], bytes]
    missing: str = ""


def fields_of(options: Mapping[str, str | None]) -> Fields:
    """The fields that `--x`, `--y` and `--z` name. Raises `InvalidInput` naming the option."""
    fields: dict[str, str] = {}
    for name in AXES:
        if (written := options[name]) is not None:
            try:
                fields[name] = field_name(written)
            except InvalidInput as error:
                raise InvalidInput(error.reason, field=f"--{name}", hint=error.hint) from error
    return fields


def are_of_a_grid(names: Sequence[str]) -> bool:
    """Whether all that is named are jobs of one grid."""
    from farm.client import FarmClient

    if any(map(means_file, names)):
        return False
    with FarmClient.connect() as farm:
        return bool(axes_of(status.labels for status in farm.status(names)))


def sources_of(farm: FarmClient, jobs: Sequence[str]) -> Sequence[Source]:
    """The jobs whose record can be read; how many are not is said on stderr."""
    statuses, specs = farm.ledger.get_many(jobs), farm.ledger.specs(jobs)
    known = [status for status in statuses if status.id in specs]
    note_unreadable(len(jobs) - len(known))
    return [
        Source(
            Arranged(specs[status.id], status.labels), status.id, partial(read_job, farm, status.id), _missing(status)
        )
        for status in known
    ]


def sources(names: Sequence[str], farm: Callable[[], FarmClient]) -> Sequence[Source]:
    """The jobs and files that are named, in the order given. A `farm` is asked for only if there are jobs.

    Files that do not say how they were made, such as another sheet, are left out, which is said on stderr.
    Raises `InvalidInput` for a file that cannot be read, and where nothing is left.
    """
    found: list[Source] = []
    for are_files, group in groupby(names, key=means_file):
        if are_files:
            found += _sources_of_files(group)
        else:
            found += sources_of(farm(), farm().resolve(group))
    if not found:
        raise InvalidInput("nothing here says how it was made", hint="only the farm's own pictures have a place")
    return found


def table_of(found: Sequence[Source], fields: Fields, *, with_files: bool = False) -> Table:
    """The table of these sources by `fields`, or by the axes of the grid that they are of if `x` is not named.

    Of several in a cell the first that has a picture is taken, which is said on stderr. A page needs the pictures
    `with_files`. Raises `InvalidInput` for no axis, for a field that no spec tells of, and for too many cells;
    `WrongState` if there is no picture at all.
    """
    from farm.pictures.table import Table, check_size

    arranged = [source.arranged for source in found]
    if "x" not in fields:
        fields = {**axes_of(job.labels for job in arranged), **fields}
    if "x" not in fields:
        raise InvalidInput("the sheet needs columns", field="--x", hint="name the field that they differ in")
    found = _as_made(found, fields)
    arranged = [source.arranged for source in found]
    arrangement = arrange(arranged, fields)
    check_size(len(arrangement.columns), len(arrangement.rows), len(arrangement.pages))
    if all(source.missing for source in found):
        raise WrongState("none of these jobs is done", hint="'farm watch' follows them")
    _tell_crowded(arranged, arrangement)
    specs = [job.spec for job in arranged]
    titles = _headings(arrangement.pages, fields.get("z"), specs)
    pages = list(_pages(found, arrangement, titles, with_files=with_files))
    cells = [cell for page in pages for row in page.cells for cell in row]
    return Table(
        title=shared_prompt(specs),
        detail=common([cell.detail for cell in cells if cell.detail] or map(describe, specs)),
        columns=_headings(arrangement.columns, fields["x"], specs),
        rows=_headings(arrangement.rows, fields.get("y"), specs),
        pages=pages,
    )


def _as_made(found: Sequence[Source], fields: Fields) -> Sequence[Source]:
    """The same, by what their pictures say where some left to the model what others asked for: that can be alike."""
    from farm.jobs.fields import MODELS_OWN, value
    from farm.pictures.provenance import spec_in

    def left_open(source: Source) -> bool:
        return any(
            value(source.arranged.spec, source.arranged.labels, field) == MODELS_OWN for field in fields.values()
        )

    if len({left_open(source) for source in found}) < 2:
        return found
    made = []
    for source in found:
        spec = None
        if left_open(source) and not source.missing:
            with contextlib.suppress(FarmError):  # the cell will say why
                spec = spec_in(source.read())
        made.append(replace(source, arranged=replace(source.arranged, spec=spec)) if spec else source)
    return made


def _headings(values: Sequence[str], field: str | None, specs: Sequence[JobSpec]) -> Sequence[str]:
    """What stands at each value of an axis: `guidance 3`; nothing where there is no such axis."""
    if field is None:
        return [""] * len(values)
    name = called(field, specs)
    return [f"{name} {value}".lstrip() for value in values]


def _pages(
    found: Sequence[Source], arrangement: Arrangement, titles: Sequence[str], *, with_files: bool
) -> Iterator[Page]:
    from farm.pictures.table import Cell, Page

    for page, title in enumerate(titles):
        rows: list[list[Cell]] = []
        for row in range(len(arrangement.rows)):
            jobs = [arrangement.cells.get((page, row, column), ()) for column in range(len(arrangement.columns))]
            first = [_first([found[job] for job in cell]) for cell in jobs]
            rows.append([_cell(one, with_file=with_files) if one else Cell(note=_NO_JOB) for one in first])
        yield Page(title, rows)


def _first(sources: Sequence[Source]) -> Source | None:
    """The first that has a picture, or else the first, if there is any."""
    return next((source for source in sources if not source.missing), next(iter(sources), None))


def _cell(source: Source, *, with_file: bool) -> Cell:
    """A source's picture, made as small as it is drawn, or the reason why there is none."""
    from farm.pictures.images import decode
    from farm.pictures.provenance import spec_in
    from farm.pictures.sheet import fitted
    from farm.pictures.table import Cell

    if source.missing:
        return Cell(note=source.missing, name=source.name)
    try:
        data = source.read()
        picture = fitted(decode(data, name=source.name))
    except (FetchRefused, ObjectMissing, ObjectDamaged, ObjectTooLarge, WrongState) as error:
        return Cell(note=error.message, name=source.name)
    except InvalidInput as error:
        return Cell(note=error.reason, name=source.name)
    spec = spec_in(data) or source.arranged.spec
    return Cell(picture, name=source.name, title=spec.prompt, detail=describe(spec), data=data if with_file else b"")


def _tell_crowded(jobs: Sequence[Arranged], arrangement: Arrangement) -> None:
    crowded = arrangement.crowded
    if not crowded:
        return
    apart = [field for field in told_apart(jobs, arrangement) if field not in arrangement.fields.values()]
    free = next((name for name in AXES if name not in arrangement.fields), None)
    note(f"{plural(len(crowded), 'cell')} with several jobs, of which the first is shown")
    if apart:
        also = f": --{free} {apart[0]} shows them all" if free and len(apart) == 1 else ""
        note(f"  they differ in {', '.join(apart[:_MOST_FIELDS_NAMED])}{also}")


def _missing(status: JobStatus) -> str:
    if status.state == "done":
        return ""
    return f"{status.state}: {status.error.message}" if status.error else status.state


def _sources_of_files(names: Iterable[str]) -> Iterator[Source]:
    from farm.pictures.provenance import spec_in

    for name in names:
        spec = spec_in(read_file(name))
        if spec is None:
            note(f"{name} does not say how it was made, and is left out")
        else:
            yield Source(Arranged(spec, {}), Path(name).name, partial(read_file, name))


def _told(table: Table) -> str:
    """`9 pictures in 12 cells`."""
    cells = [cell for page in table.pages for row in page.cells for cell in row]
    pictures = sum(cell.picture is not None for cell in cells)
    return plural(pictures, "picture") + ("" if pictures == len(cells) else f" in {plural(len(cells), 'cell')}")


def save(table: Table, path: Path, lettering: Lettering, *, option: str) -> str:
    """Write the table as a PNG, whole. Returns a line for people. Raises `InvalidInput`."""
    from farm.host.places import replacing
    from farm.pictures.table import drawn

    page = drawn(table, lettering)
    with replacing(path, option=option) as unfinished:
        page.save(unfinished, "PNG")
    return f"{path}  {_told(table)}, {page.width}×{page.height} pixels"


def save_page(table: Table, path: Path, *, option: str) -> str:
    """Write the table as an HTML page, whole. Returns a line for people. Raises `InvalidInput`."""
    from farm.host.places import replacing
    from farm.pages.table import written

    text = written(table).encode()
    with replacing(path, option=option) as unfinished:
        unfinished.write_bytes(text)
    return f"{path}  {_told(table)}, {size(len(text))}"


def write_sheet(farm: FarmClient, jobs: Iterable[str], path: Path) -> None:
    """The sheet of a grid's jobs, and where it is on stderr."""
    note(f"sheet: {save_grid(farm, jobs, path)}")


def save_grid(farm: FarmClient, jobs: Iterable[str], path: Path) -> str:
    """The sheet of a grid's jobs. Returns a line for people. Raises `InvalidInput`, or `WrongState` if none is done."""
    from farm.pictures.lettering import Lettering

    return save(table_of(sources_of(farm, list(jobs)), {}), path, Lettering(), option="--out")
