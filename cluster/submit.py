"""Starts a sweep elsewhere: validates it, packs what it needs, hands it over, and says where its results will lie."""

import datetime
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.bundle import SWEEP_YAML, Bundle, make_bundle, pack_bundle, write_bundle
from cluster.entry import RUNS
from cluster.jobs import ON_RAY_UP, Job, new_id, remember
from cluster.ray_up import run_ray, submit_command
from cluster.render import RAYJOB, SBATCH, fill, quote_yaml
from cluster.token_file import make_token, protect_token, token_path
from qa_train.config import to_yaml
from qa_train.errors import QAError
from qa_train.storage import parse_yaml, read_text, unused_dir, write_text

Say = Callable[[str], None]
_HERE = Path(__file__).parent
_CODE = "/opt/spansweep"
"""Of the package in the image that `Dockerfile` builds."""


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        target: One of `TARGETS`.
        path: The sweep's configuration.
        overrides: `key=value`.
        out: Where the results go, as seen from there; None: in the user's home there.
        cluster_config: A cluster's YAML, or a template; None: the one that comes with this package.
        image: Kubernetes: of the containers.
        num_nodes: How many nodes the sweep waits for; None: as many as the cluster is to have at least.
        start: Whether a cluster of `ray up` is started first.
        resume: Whether to go on with the sweep in `out`, as it was asked for then.
        any_versions: Whether other versions than the pinned ones will do.
        follow: Whether to show the log until the job ends.
        job_id: A new one; None: made of the sweep's name and the time.
    """

    target: str
    path: str
    overrides: Sequence[str] = ()
    out: str | None = None
    cluster_config: str | None = None
    image: str | None = None
    num_nodes: int | None = None
    start: bool = False
    resume: bool = False
    any_versions: bool = False
    follow: bool = True
    job_id: str | None = None


@dataclass(frozen=True)
class Plan:
    """A request, validated: what will be sent, run and remembered.

    Attributes:
        request: What was asked for.
        bundle: What is sent.
        job: What is remembered.
        num_nodes: How many nodes the sweep waits for.
    """

    request: Request
    bundle: Bundle
    job: Job
    num_nodes: int

    @property
    def arguments(self) -> list[str]:
        """Of `cluster/entry.py`, after the configuration."""
        nodes = ["--nodes", str(self.num_nodes)] if self.num_nodes > 1 else []
        flags = {"--resume": self.request.resume, "--any-versions": self.request.any_versions}
        return ["--out", self.job.out, *nodes, *(flag for flag, is_set in flags.items() if is_set)]

    @property
    def entrypoint(self) -> str:
        """The shell command that runs in the bundle."""
        return shlex.join(["python", "cluster/entry.py", "run", SWEEP_YAML, *self.arguments])


def make_plan(request: Request) -> Plan:
    """Validates a request; nothing is started.

    Raises:
        ConfigError: With all mistakes of the configuration.
        QAError: If something else does not fit the target.
    """
    is_image = request.target == "kuberay"
    bundle = make_bundle(request.path, request.overrides, with_inputs=not is_image)
    job_id = request.job_id or new_id(bundle.config.name, f"{datetime.datetime.now():%Y%m%d-%H%M%S}")
    if request.resume and not request.out:
        raise QAError("--resume: expected --out, the place of the sweep to go on with, found none")
    if is_image and not request.image:
        raise QAError("--image: expected the image that cluster/Dockerfile builds, in a registry, found none")
    if request.target == "jobs":
        from cluster.job_server import job_server_address

        place = job_server_address(os.environ)
    else:
        place = str(_cluster_config(request))
    num_nodes = request.num_nodes or _least_nodes(request.target, place)
    if is_image and num_nodes < 2:
        raise QAError(f"--nodes: expected 2 or more, found {num_nodes}: no trial runs on the head of a RayJob")
    return Plan(request, bundle, Job(job_id, request.target, place, _out(request, job_id, num_nodes)), num_nodes)


def _cluster_config(request: Request) -> Path:
    original = {"kuberay": RAYJOB, "slurm": SBATCH}.get(request.target, _HERE / f"{request.target}.yaml")
    path = Path(os.path.expanduser(request.cluster_config or original)).absolute()
    if not path.is_file():
        raise QAError(f"--config: expected a file, found none at {path}")
    return path


def _least_nodes(target: str, place: str) -> int:
    """Returns how many nodes a cluster is to have at least, the head included, as far as its file tells.

    Raises:
        QAError: If the file is not one of `ray up`.
    """
    if target not in ON_RAY_UP:
        return 2 if target == "kuberay" else 1
    config, problems = parse_yaml(read_text(place))
    try:
        if not problems:
            return 1 + _least_workers(config)
    except (AttributeError, KeyError, TypeError, ValueError):
        problems = ["another provider, available_node_types or min_workers"]
    raise QAError(f"{place}: expected the YAML of a cluster of `ray up`, found {'; '.join(problems)}")


def _least_workers(config: Any) -> int:
    """Returns how many workers a cluster of `ray up` is to have; raises what comes of another configuration."""
    machines = config["provider"].get("worker_ips", [])
    workers = dict(config.get("available_node_types", {}))
    workers.pop(config.get("head_node_type"), None)
    if workers:
        return sum(int(kind.get("min_workers", 0)) for kind in workers.values())
    return int(config.get("min_workers", len(machines)))


def _out(request: Request, job_id: str, num_nodes: int) -> str:
    """Returns where results go.

    Raises:
        QAError: If that would depend on where a process runs, be lost, or cannot be written to.
    """
    out = request.out or ""
    if out != out.encode(errors="replace").decode():
        raise QAError(f"--out: expected text, found {out!r}")
    if "://" in out:
        if not out.startswith(("s3://", "gs://", "file:///")):
            raise QAError(f"--out: expected s3://…, gs://… or a path, found {out}")
        return out
    if request.target == "slurm":
        path = os.path.expanduser(out or f"runs/{job_id}")
        if path.startswith("~"):
            raise QAError(f"--out: expected a path, found {out}: there is no such user")
        return str(Path(path).absolute())
    if not out and num_nodes > 1:
        raise QAError(
            f"--out: expected s3://…, gs://… or a path on storage that all {num_nodes} nodes mount, found none"
        )
    if out and not out.startswith(("/", "~/")):
        raise QAError(f"--out: expected an absolute path, ~/…, s3://… or gs://…, found {out}")
    return out or f"{RUNS}/{job_id}"


def describe(plan: Plan) -> str:
    """Returns in lines what would be done."""
    bundle, job = plan.bundle, plan.job
    inputs = sorted({"/".join(name.split("/")[2:3]) for name in bundle.files if name.startswith("inputs/")})
    lines = [f"job      {job.id}"]
    if job.target == "kuberay":
        lines.append(f"image    {plan.request.image}, whose package it runs")
    else:
        size = f"{len(bundle.files)} files, {bundle.num_bytes / 2**20:.1f} MiB"
        lines.append(f"sends    {size}; inputs: {', '.join(inputs) or 'none'}")
    if bundle.left_there:
        lines.append(f"expects  {', '.join(bundle.left_there)} on every node")
    lines += [f"to       {job.place}", f"runs     {plan.entrypoint}", f"results  {job.out}"]
    return "\n".join(lines)


def submit(plan: Plan, say: Say) -> int:
    """Hands a job over; follows it where that is asked for.

    Returns:
        The job's exit status if it was followed, else 0.

    Raises:
        QAError: If it cannot be handed over.
        KeyboardInterrupt: On Ctrl-C; a job that was handed over goes on.
    """
    if plan.job.target in ON_RAY_UP:
        return _submit_by_ray(plan, say)
    return {"jobs": _submit_to_server, "kuberay": _render_rayjob, "slurm": _render_sbatch}[plan.job.target](plan, say)


def _submit_to_server(plan: Plan, say: Say) -> int:
    from cluster.job_server import JobServer, shows_token

    job = plan.job
    if shows_token(job.place, os.environ):
        say(f"warning: {job.place}: the token goes there unencrypted; use a tunnel (ssh -L) or https")
    server = JobServer(job.place)
    remember(job)  # first: a job that runs must be found again
    with tempfile.TemporaryDirectory() as directory:
        write_bundle(plan.bundle, Path(directory))
        server.submit(Path(directory), job.id, plan.entrypoint, {"sweep": plan.bundle.config.name, "out": job.out})
    say(f"job {job.id} was submitted; its results will lie in {job.out} on the cluster")
    if not plan.request.follow:
        say(f"follow it: python -m cluster attach {job.id}")
        return 0
    return follow(job, say)


def follow(job: Job, say: Say) -> int:
    """Shows a job's log on stdout until it ends; returns its exit status.

    Raises:
        QAError: If there is no such job, or the connection is lost.
        KeyboardInterrupt: On Ctrl-C; the job goes on.
    """
    from cluster.job_server import JobServer

    server = JobServer(job.place)
    try:
        status = server.follow(job.id, lambda piece: print(piece, end="", flush=True))
    except KeyboardInterrupt:
        say(f"\ndetached; the sweep goes on: python -m cluster attach {job.id}, or stop {job.id}")
        raise
    if status:
        say(f"job {job.id} ended with {status}: {server.message(job.id)}")
    return status


def _submit_by_ray(plan: Plan, say: Say) -> int:
    """Has `ray submit` copy the bundle as one file, which unpacks itself on the head and submits the job there."""
    job, request = plan.job, plan.request
    path = token_path(os.environ)
    if path is not None and request.start:
        make_token(path)  # `ray up` copies it to the nodes
    elif path is not None:
        protect_token(path)  # Ray's own is readable for all
    arguments = ["submit", "jobs", SWEEP_YAML, *plan.arguments, "--id", job.id]
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory) / f"{job.id}.pyz"
        pack_bundle(plan.bundle, archive, [*arguments, *([] if request.follow else ["--detach"])], job.id)
        remember(job)
        say(f"job {job.id}: its results will lie in {job.out} on the head; python -m cluster fetch {job.id}")
        return run_ray(submit_command(Path(job.place), archive, start=request.start))


def render_rayjob(plan: Plan) -> str:
    """Returns the RayJob as YAML, with the configuration in a ConfigMap beside it.

    Raises:
        QAError: If the template does not fit.
    """
    run = ["python", f"{_CODE}/cluster/entry.py", "run", f"/etc/spansweep/{SWEEP_YAML}", *plan.arguments]
    values: dict[str, str | int] = {
        "ID": plan.job.id,
        "ENTRYPOINT": shlex.join(run),
        "IMAGE": plan.request.image or "",
        "SWEEP": to_yaml(plan.bundle.config),
        "WORKERS": plan.num_nodes - 1,
    }
    return fill(Path(plan.job.place), values, quote_yaml)


def _render_rayjob(plan: Plan, say: Say) -> int:
    path = Path(f"{plan.job.id}.rayjob.yaml")
    write_text(path, render_rayjob(plan))
    remember(plan.job)
    say(f"start it: kubectl apply -f {path}; follow it: kubectl logs -f job/{plan.job.id}; results: {plan.job.out}")
    print(f"Wrote {path}")
    return 0


def job_directory(plan: Plan) -> Path:
    """Returns the directory, on storage that the nodes share, from which a Slurm job runs."""
    return Path(f"runs/{plan.job.id}.job").absolute()


def render_sbatch(plan: Plan) -> str:
    """Returns the script for sbatch.

    Raises:
        QAError: If the template does not fit.
    """
    values = {
        "ID": plan.job.id,
        "DIRECTORY": shlex.quote(str(job_directory(plan))),
        "PYTHON": shlex.quote(sys.executable),
        "NODES": str(plan.num_nodes),
        "ARGUMENTS": shlex.join(["run", SWEEP_YAML, *plan.arguments]),
    }
    return fill(Path(plan.job.place), values, str)


def _render_sbatch(plan: Plan, say: Say) -> int:
    directory = unused_dir(job_directory(plan))
    write_bundle(plan.bundle, directory)
    script = directory / "sweep.sbatch"
    write_text(script, render_sbatch(plan))
    remember(plan.job)
    say(f"start it: sbatch {shlex.quote(str(script))}; follow it: tail -F {directory}/log.txt; results: {plan.job.out}")
    print(f"Wrote {script}")
    return 0
