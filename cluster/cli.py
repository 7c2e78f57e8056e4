"""`python -m cluster`: starts sweeps on other machines, follows them and fetches what they found."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cluster.jobs import ON_RAY_UP, TARGETS, Job, recall
from cluster.ray_up import fetch_command, head_command, run_ray
from cluster.submit import Request, describe, follow, make_plan, render_rayjob, render_sbatch
from cluster.submit import submit as hand_over
from qa_train.errors import QAError, run_command
from qa_train.storage import unused_dir


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(commands, "python -m cluster", argv)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


_NODES = "Wait for so many nodes, the head included.  [default: those of the cluster's YAML; kuberay 2, else 1]"

job_id_argument = click.argument("job_id", metavar="ID")


@click.group()
def commands() -> None:
    """Starts sweeps on other machines, follows them and fetches what they found."""


@commands.command()
@click.argument("target", type=click.Choice(TARGETS), metavar=f"[{'|'.join(TARGETS)}]")
@click.argument("path", metavar="C.yaml")
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option(
    "--out",
    metavar="PLACE",
    help="For the results: s3://…, gs://… or a path there.  [default on one node: ~/spansweep-runs/ID; slurm: runs/ID]",
)
@click.option("--config", "cluster_config", metavar="FILE", help="Your copy of the target's file in cluster/.")
@click.option("--image", metavar="NAME", help="kuberay: the image that cluster/Dockerfile builds.")
@click.option("--nodes", "num_nodes", type=click.IntRange(1), help=_NODES)
@click.option("--start", is_flag=True, help="local, aws, gcp: `ray up` first; it starts Ray anew where it runs.")
@click.option("--resume", is_flag=True, help="Go on with the sweep in --out, as it was asked for then.")
@click.option("--any-versions", is_flag=True, help="Run also where other versions than the pinned ones are installed.")
@click.option("--detach", is_flag=True, help="Do not follow the log.")
@click.option("--dry-run", is_flag=True, help="Validate, and show what would be sent and run.")
@click.option("--id", "job_id", hidden=True)
def submit(dry_run: bool, detach: bool, **asked: object) -> int:
    """Starts a sweep elsewhere, after its configuration was checked here; exits as the sweep does.

    \b
    local, aws, gcp  a cluster of `ray up`, described by cluster/local.yaml …
    jobs             the job server that RAY_ADDRESS names, such as http://127.0.0.1:8265
    kuberay          writes a RayJob for kubectl
    slurm            writes a script for sbatch

    The sweep goes on when this command is interrupted.

    \b
    Examples:
      RAY_ADDRESS=http://127.0.0.1:8265 python -m cluster submit jobs sweeps/configs/demo.yaml
      python -m cluster submit aws C.yaml search.num_trials=64 --config my-aws.yaml --out s3://bucket/first
      python -m cluster submit slurm C.yaml --nodes 4 --dry-run
    """
    plan = make_plan(Request(**asked, follow=not detach))  # type: ignore[arg-type]
    if not dry_run:
        return hand_over(plan, _say)
    render = {"kuberay": render_rayjob, "slurm": render_sbatch}.get(plan.job.target)
    _say(describe(plan))
    if render:
        print(render(plan), end="")
    return 0


@commands.command()
@job_id_argument
def attach(job_id: str) -> int:
    """Shows a job's log, from its beginning, until it ends; exits as the job does.

    \b
    Example:
      python -m cluster attach demo-20261127-031500
    """
    job = recall(job_id)
    if job.target in ON_RAY_UP:
        return _on_its_head(job, "attach")
    return follow(_with_server(job), _say)


@commands.command()
@job_id_argument
def status(job_id: str) -> int:
    """Says whether a job is PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED, and where its results lie.

    \b
    Example:
      python -m cluster status demo-20261127-031500
    """
    job = recall(job_id)
    if job.target in ON_RAY_UP:
        return _on_its_head(job, "status")
    from cluster.job_server import JobServer

    print(f"{JobServer(_with_server(job).place).status(job_id)}; results in {job.out}")
    return 0


@commands.command()
@job_id_argument
def stop(job_id: str) -> int:
    """Stops a job; what it recorded stays, and `python -m sweeps resume` goes on with it.

    \b
    Example:
      python -m cluster stop demo-20261127-031500
    """
    job = recall(job_id)
    if job.target in ON_RAY_UP:
        return _on_its_head(job, "stop")
    from cluster.job_server import JobServer

    was_running = JobServer(_with_server(job).place).stop(job_id)
    print("stopped" if was_running else "was not running", f"; results in {job.out}", sep="")
    return 0


@commands.command()
@job_id_argument
@click.option("--to", metavar="DIR", help="A new directory.  [default: runs/ID]")
def fetch(job_id: str, to: str | None) -> int:
    """Copies a job's results from the head of a cluster of `ray up`; says where those of others lie.

    \b
    Example:
      python -m cluster fetch demo-20261127-031500
    """
    job = recall(job_id)
    if "://" in job.out or Path(job.out).is_dir():
        print(f"nothing to fetch: python -m analysis report {shlex.quote(job.out)}")
        return 0
    if job.target not in ON_RAY_UP:
        raise QAError(
            f"{job_id}: its results lie in {job.out} there; copy them with scp -r HEAD:{job.out} (kubectl cp)"
        )
    directory = unused_dir(to or Path("runs") / job_id, "give another --to")
    result = run_ray(fetch_command(Path(job.place), job.out, directory))
    if result == 0:
        print(f"Wrote {directory}")
    return result


def _on_its_head(job: Job, verb: str) -> int:
    """Runs one of these commands where a cluster of `ray up` has its job server; returns its exit status."""
    return run_ray(head_command(Path(job.place), job.id, verb))


def _with_server(job: Job) -> Job:
    """Returns a job whose server can be asked from here.

    Raises:
        QAError: If another system's own commands look after it.
    """
    own = {"kuberay": f"kubectl get rayjob {job.id}; kubectl logs -f job/{job.id}", "slurm": "squeue --me; scancel JOB"}
    if job.target in own:
        raise QAError(f"{job.id}: {job.target} jobs are looked after by {own[job.target]}")
    return job
