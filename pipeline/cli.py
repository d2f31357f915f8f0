"""The command line. Imports neither torch nor ray: `--help` answers at once.

Exit codes: 0 done; 2 the user can mend it (one clear sentence, no traceback); 1 our failure (short, with the place
of the full log); 130 interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.labels import labels_app
from pipeline.options import AsJson, Endpoint
from schemas.errors import CrossdistillError, InternalError, Interrupted, SpecError, TrainingFailed, UserError

if TYPE_CHECKING:
    from pipeline.specs import LoadedSpec

app = typer.Typer(
    help="Cross-domain knowledge distillation with an offline soft-label store.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(labels_app, name="labels")

SpecPath = Annotated[Path, typer.Argument(help="The spec, a YAML or JSON file.", metavar="SPEC")]
Workspace = Annotated[str | None, typer.Option(help="Workspace (directory or URI); left out: beside the spec.")]
Form = Annotated[str | None, typer.Option(metavar="NAME", help="A form of the spec (under its `forms`), such as full.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a value: students.mobile.seeds=3.")]
MaxRounds = Annotated[int | None, typer.Option("--max-rounds", help="Most rounds, in the place of the spec's.")]


@app.command()
def init(
    task: Annotated[str | None, typer.Argument(help="The task; left out: the tasks are listed.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; left out: TASK.yaml.")] = None,
) -> None:
    """Write a commented starting spec that runs as it is."""
    from stages.tasks import TASKS

    if task is None:
        print("\n".join(TASKS.names()))
        return
    text = TASKS.get(task).starter()
    path = out or Path(f"{task}.yaml")
    if not path.parent.is_dir():
        raise SpecError(f"there is no folder {path.parent} to write {path.name} to")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SpecError(f"{path} exists already: name another file with --out") from None
    print(f"{path} is written. See what it would do: crossdistill plan {path}")


@app.command()
def plan(
    spec: SpecPath,
    workspace: Workspace = None,
    form: Form = None,
    overrides: Overrides = None,
    max_rounds: MaxRounds = None,
    as_json: AsJson = False,
) -> None:
    """Check a spec and show each step: present, missing, damaged or not yet known, and why. Starts no work."""
    from pipeline.api import plan as make
    from pipeline.show import plan_json, print_plan
    from pipeline.view import View

    with redirect_stdout(sys.stderr), View() as view:
        made = make(_loaded(spec, form, overrides, max_rounds), workspace, listener=view)
    if as_json:
        print(json.dumps(plan_json(made), indent=2))
    else:
        print_plan(made)


@app.command()
def run(
    spec: SpecPath,
    workspace: Workspace = None,
    only: Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Do only this stage or step.")] = None,
    start: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="STAGE", help="Do this stage or step and all that rests on it."),
    ] = None,
    force: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Do this stage or step though it exists.")
    ] = None,
    form: Form = None,
    overrides: Overrides = None,
    max_rounds: MaxRounds = None,
    update_lock: Annotated[
        bool, typer.Option("--update-lock", help="Take what the names of others' label sets mean now.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Do what a spec asks and does not exist yet; go on where a killed run was."""
    from pipeline.api import run as execute
    from pipeline.runner import Selection
    from pipeline.show import print_result, result_json
    from pipeline.view import View

    selection = Selection(tuple(only or ()), tuple(start or ()), tuple(force or ()))
    with redirect_stdout(sys.stderr), View() as view:  # what the user's own code prints is not our answer
        result = execute(
            _loaded(spec, form, overrides, max_rounds),
            workspace,
            selection=selection,
            listener=view,
            command=" ".join(["crossdistill", *sys.argv[1:]]),
            update_lock=update_lock,
        )
    if as_json:
        print(json.dumps(result_json(result), indent=2))
    else:
        print_result(result)
    if result.failures:
        steps = ", ".join(result.failures)
        kind = InternalError if any(error.exit_code == 1 for error in result.failures.values()) else UserError
        raise kind(f"failed: {steps} (the reason stands above)") from next(iter(result.failures.values()))
    trainings = [student for out in result.outputs.values() for student in getattr(out, "students", ())]
    failed = [student for student in trainings if student.failure]
    if failed:
        names = ", ".join(dict.fromkeys(student.name for student in failed))
        raise TrainingFailed(
            f"{len(failed)} of {len(trainings)} trainings failed ({names}; the reasons stand above and in the report), "
            "the others are done"
        )


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="The stage.")],
    inputs: Annotated[Path | None, typer.Argument(help="Its inputs, a JSON file; - for standard input.")] = None,
    workspace: Annotated[str, typer.Option(help="Workspace (directory or URI).")] = "crossdistill.workspace",
    example: Annotated[bool, typer.Option("--example", help="Print an inputs file to start from.")] = False,
    local: Annotated[bool, typer.Option("--local", help="Work in this process, without Ray.")] = False,
    endpoint_url: Endpoint = None,
) -> None:
    """Run one stage alone: JSON in, JSON out."""
    from stages.base import get_stage

    found = get_stage(name)
    if example:
        sys.stdout.write(found.example().to_json().decode())
        return
    if inputs is None:
        raise SpecError(f"stage {name} needs an inputs file; see one: crossdistill stage {name} --example")
    if str(inputs) != "-" and not inputs.is_file():
        raise SpecError(f"there is no inputs file {inputs}; see one: crossdistill stage {name} --example")
    text: str | bytes = sys.stdin.read() if str(inputs) == "-" else inputs.read_bytes()
    asked = found.Inputs.parse_json(text, str(inputs))
    from pipeline.alone import run_alone
    from schemas.spec import Storage

    storage = Storage(endpoint_url=endpoint_url)
    with redirect_stdout(sys.stderr):
        outputs = run_alone(found, asked, workspace, local, storage)
    sys.stdout.write(outputs.to_json().decode())


@app.command()
def rounds(
    spec: SpecPath,
    workspace: Workspace = None,
    form: Form = None,
    overrides: Overrides = None,
    max_rounds: MaxRounds = None,
    as_json: AsJson = False,
) -> None:
    """Show what each round came to so far, and why it was what it was."""
    from pipeline.api import chains_so_far
    from pipeline.show import history_json, print_history

    chains = chains_so_far(_loaded(spec, form, overrides, max_rounds), workspace)
    if as_json:
        print(json.dumps(history_json(chains), indent=2))
    else:
        print_history(chains)


def _loaded(spec: Path, form: str | None, overrides: list[str] | None, max_rounds: int | None) -> LoadedSpec:
    from pipeline.specs import load_spec

    more = [] if max_rounds is None else [f"rounds.max_rounds={max_rounds}"]
    return load_spec(spec, [*(overrides or ()), *more], form)


@app.command()
def report(
    spec: SpecPath,
    workspace: Workspace = None,
    form: Form = None,
    overrides: Overrides = None,
    max_rounds: MaxRounds = None,
    as_json: AsJson = False,
) -> None:
    """Show the report of a finished run."""
    from pipeline.api import plan as make
    from pipeline.show import print_report, report_of

    found = report_of(make(_loaded(spec, form, overrides, max_rounds), workspace, look_only=True))
    if as_json:
        sys.stdout.write(found.to_json().decode())
    else:
        print_report(found)


@app.command()
def schema(
    name: Annotated[str | None, typer.Argument(help="A contract, a task or a method; left out: their names.")] = None,
) -> None:
    """Print the JSON Schema of a contract (`crossdistill schema Spec` for your editor) or of a plug-in's settings."""
    from pipeline.show import schema_names, schema_of

    print("\n".join(schema_names()) if name is None else json.dumps(schema_of(name), indent=2))


def main() -> int:
    """Run the command line; returns the exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if app(standalone_mode=False) == Interrupted.exit_code:  # typer makes a code of Ctrl-C
            raise Interrupted
    except (KeyboardInterrupt, Interrupted, typer.Abort) as error:
        said = str(error) if isinstance(error, Interrupted) else ""
        _say(said or "Interrupted. What is finished is kept; the same command goes on from there.")
        return _leave(130)
    except CrossdistillError as error:
        for problem in error.problems:
            _say(f"Error: {problem}")
        if error.exit_code == 1:
            _say(f"The full log: {_log(error)}")
        return _leave(error.exit_code)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:  # noqa: BLE001 (the last place where anything unforeseen can be told briefly)
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a usage error of the command line
            _say(f"Error: {error.format_message()} See: crossdistill --help")
            return _leave(2)
        _say(f"Error: this is our failure: {type(error).__name__}: {error}")
        _say(f"The full log: {_log(error)}")
        return _leave(1)
    return _leave(0)


def _terminate(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _log(error: BaseException) -> Path:
    handle, name = tempfile.mkstemp(prefix="crossdistill-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    return Path(name)


def _leave(code: int) -> int:
    """Stop Ray if this process started it, and do not wait for steps' threads: what they do is restartable."""
    if "ray" in sys.modules:
        from stages import cluster

        cluster.stop()
    if threading.active_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
