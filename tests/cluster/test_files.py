"""The files of each target: valid by Ray's own schema, closed to the world, and of the pinned versions."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import render
from cluster.cli import commands
from cluster.entry import pins
from cluster.render import fill, quote_yaml
from cluster.submit import Plan, Request, make_plan, render_rayjob, render_sbatch
from qa_train.errors import QAError

CLUSTER = Path(__file__).parents[2] / "cluster"
PINS = pins(CLUSTER.parent)
RAY_UP = ("local", "aws", "gcp")
DEMO = str(CLUSTER.parent / "sweeps" / "configs" / "demo.yaml")
# Names that must not break out of the place they are put in.
AWKWARD = "x\"'$(id) `id` {a: [b]} #"


def read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return loaded


def plan(target: str, **more: Any) -> Plan:
    defaults: dict[str, Any] = {"out": "s3://bucket/first", "num_nodes": 3}
    return make_plan(Request(target, DEMO, [f"note={AWKWARD}"], **{**defaults, **more}))


@pytest.mark.parametrize("target", RAY_UP)
def test_a_cluster_of_ray_up_is_valid_by_rays_own_schema(target: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read(f"{target}.yaml")))


@pytest.mark.parametrize("target", RAY_UP)
def test_a_cluster_of_ray_up_is_closed(target: str) -> None:
    config = read(f"{target}.yaml")
    starts = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in starts[0]
    for command in [*starts, config["worker_start_ray_commands"][-1]]:
        assert "export RAY_AUTH_MODE=token" in command
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"
    assert "0.0.0.0" not in (CLUSTER / f"{target}.yaml").read_text()
    assert {".git", ".venv", "runs"} <= {*config["rsync_exclude"]}


def test_on_ec2_ray_makes_no_security_group_for_it_would_let_in_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    from ray.autoscaler._private.aws import config as of_ray

    made: list[str] = []
    monkeypatch.setattr(of_ray, "_get_or_create_vpc_security_groups", lambda _, node_types: made.extend(node_types))
    monkeypatch.setattr(of_ray, "_upsert_security_group_rules", lambda *_: pytest.fail(f"rules of Ray's for {made}"))
    configured = of_ray._configure_security_group(read("aws.yaml"))  # type: ignore[no-untyped-call]
    for node_type in configured["available_node_types"].values():
        assert node_type["node_config"]["SecurityGroupIds"] == ["sg-00000000000000000"]  # the user's own
    assert made == []


@pytest.mark.parametrize("target", ["aws", "gcp"])
def test_in_a_cloud_the_head_stays_and_workers_are_spot(target: str) -> None:
    config = read(f"{target}.yaml")
    head, worker = (config["available_node_types"][name]["node_config"] for name in ("head", "gpu"))
    spot = {"aws": "InstanceMarketOptions", "gcp": "scheduling"}[target]
    assert spot in worker
    assert spot not in head
    types = config["available_node_types"]
    assert 0 < types["gpu"]["min_workers"] <= types["gpu"]["max_workers"] <= config["max_workers"]
    assert types["head"]["resources"] == {"CPU": 0}


@pytest.mark.parametrize("name", [*(f"{target}.yaml" for target in RAY_UP), "Dockerfile", "README.md"])
def test_versions_are_those_of_the_constraints(name: str) -> None:
    found = re.findall(r"\b([a-z]+)(?:\[[a-z,]+\])?==([\d.]+\d)", (CLUSTER / name).read_text())
    assert found or name == "README.md"
    assert dict(found) == {library: PINS[library] for library, _ in found}


def test_images_have_the_pinned_ray() -> None:
    assert f"FROM rayproject/ray:{PINS['ray']}-py311\n" in (CLUSTER / "Dockerfile").read_text()
    for name in ("raycluster", "rayjob"):
        assert f'rayVersion: "{PINS["ray"]}"' in (CLUSTER / "kuberay" / f"{name}.yaml").read_text()


# Fields of KubeRay 1.6's RayJob and RayCluster that are used here, and the kinds of their values.
RAYJOB = {
    "entrypoint": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "backoffLimit": int,
    "rayClusterSpec": dict,
}
RAYCLUSTER = {"rayVersion": str, "authOptions": dict, "headGroupSpec": dict, "workerGroupSpecs": list}
HEAD_GROUP = {"serviceType": str, "rayStartParams": dict, "template": dict}
WORKER_GROUP = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "rayStartParams": dict,
    "template": dict,
}


def check(found: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    assert {*found} <= {*fields}
    assert {name: type(value) for name, value in found.items()} == {name: fields[name] for name in found}


def check_cluster(spec: dict[str, Any]) -> None:
    check(spec, RAYCLUSTER)
    assert spec["authOptions"] == {"mode": "token"}
    check(spec["headGroupSpec"], HEAD_GROUP)
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for group in spec["workerGroupSpecs"]:
        check(group, WORKER_GROUP)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        for container in group["template"]["spec"]["containers"]:
            assert "env" not in container  # where a token would be written down


def test_a_rendered_rayjob_is_whole_and_holds_the_configuration() -> None:
    job, config_map, policy = yaml.safe_load_all(render_rayjob(plan("kuberay", image="registry/spansweep:1")))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    check(job["spec"], RAYJOB)
    check_cluster(job["spec"]["rayClusterSpec"])
    assert job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 2
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    assert len(job["metadata"]["name"]) <= 47
    sweep = yaml.safe_load(config_map["data"]["sweep.yaml"])
    assert sweep["note"] == AWKWARD
    assert sweep["train"]["data"]["train"] == "qa_train/demo_data/train.json"
    pods = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    assert policy["spec"]["podSelector"]["matchLabels"] == pods["metadata"]["labels"]
    assert pods["spec"]["volumes"][0]["configMap"]["name"] == config_map["metadata"]["name"]


def test_a_standing_raycluster_is_whole() -> None:
    cluster, policy = yaml.safe_load_all((CLUSTER / "kuberay" / "raycluster.yaml").read_text())
    check_cluster(cluster["spec"])
    assert policy["kind"] == "NetworkPolicy"


def test_a_rendered_script_for_sbatch_is_one_that_bash_reads(tmp_path: Path) -> None:
    script = render_sbatch(plan("slurm", out=str(tmp_path / "of [a] 'sweep'")))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "--dashboard-host=127.0.0.1" in script
    assert "RAY_AUTH_MODE=token" in script
    assert "umask 077" in script
    assert not re.search(r"@[A-Z]+@", script)
    if checker := shutil.which("shellcheck"):
        done = subprocess.run([checker, "-"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_template_with_other_names_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "mine.yaml"
    template.write_text('name: "@ID@"\nimage: "@IMAG@"\n')
    with pytest.raises(QAError, match=r"expected @ID@, @IMAGE@, found @ID@, @IMAG@"):
        fill(template, {"ID": "a", "IMAGE": "b"}, quote_yaml)
    template.write_text('name: "@ID@"\nimage: @IMAGE@\n')
    filled = fill(template, {"ID": AWKWARD, "IMAGE": "b"}, quote_yaml)
    assert yaml.safe_load(filled) == {"name": AWKWARD, "image": "b"}


@pytest.mark.parametrize(
    "line",
    [
        'image: "registry/@IMAGE@"',
        "image: registry/@IMAGE@",
        'image: "a @IMAGE@ b"',
        "image: '@IMAGE@'",
        "a: @IMAGE@:1",
    ],
)
def test_a_name_within_a_longer_text_is_refused(tmp_path: Path, line: str) -> None:
    template = tmp_path / "mine.yaml"
    template.write_text(f"kind: RayJob\n{line}\n")
    with pytest.raises(QAError, match='line 2: expected a whole value such as "@ID@", found '):
        fill(template, {"IMAGE": "b"}, quote_yaml)


def test_texts_of_digits_stay_texts() -> None:
    job, *_ = yaml.safe_load_all(render_rayjob(plan("kuberay", image="123")))
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (group["template"]["spec"]["containers"][0]["image"], group["replicas"]) == ("123", 2)


def test_templates_lie_where_they_are_looked_for() -> None:
    assert render.RAYJOB.is_file()
    assert render.SBATCH.is_file()


def test_the_readme_shows_commands_that_bash_reads_and_verbs_that_there_are() -> None:
    text = (CLUSTER / "README.md").read_text()
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```$", text, re.M | re.S)
    assert blocks
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    assert {*re.findall(r"python -m cluster (\w+)", text)} <= {*commands.commands}
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (CLUSTER / target).is_file(), target
