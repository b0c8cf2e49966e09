"""deploy/kubernetes holds what Kubernetes' own schemas allow, and says of the service what is so.

kustomize is not run. `built` puts patches over the base in its place: mappings are merged, lists of named things by
their names, and null removes. KServe's and the Prometheus Operator's kinds are read, not validated.
"""

import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serving import fetch
from serving.edge.server import STOP_SECONDS
from serving.settings import Settings
from tests.fixtures.server import ROOT, Client

FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = "1.37"
NOT_VALIDATED = {"ServingRuntime", "InferenceService", "ServiceMonitor"}
KUSTOMIZATIONS = sorted(FOLDER.rglob("kustomization.yaml"))
OVERLAYS = [path.parent for path in KUSTOMIZATIONS if "components" not in path.parts]
Resource = dict[str, Any]
# LibYAML's, ten times as fast as Python's
load, load_all = partial(yaml.load, Loader=yaml.CSafeLoader), partial(yaml.load_all, Loader=yaml.CSafeLoader)


def key_of(resource: Resource) -> tuple[str, str]:
    return resource["kind"], resource["metadata"]["name"]


def named_by(items: list[Any]) -> str | None:
    """The key by which Kubernetes merges this list, if any: mountPath comes first, for two mounts of one volume."""
    for key in ("mountPath", "containerPort", "name"):
        if items and all(isinstance(item, dict) and key in item for item in items):
            return key
    return None


def merged(base: Any, patch: Any) -> Any:
    if isinstance(base, dict) and isinstance(patch, dict):
        found = base | {key: merged(base.get(key), value) for key, value in patch.items()}
        return {key: value for key, value in found.items() if value is not None}
    if isinstance(base, list) and isinstance(patch, list) and (key := named_by(base)) and named_by(patch) == key:
        old = {item[key]: item for item in base}
        return list((old | {item[key]: merged(old.get(item[key]), item) for item in patch}).values())
    return patch


def built(folder: Path, extra: tuple[str, ...] = ()) -> dict[tuple[str, str], Resource]:
    """Every resource of an overlay, with its components and those called `extra`."""
    found: dict[tuple[str, str], Resource] = {}
    _build(folder, found)
    for name in extra:
        _build(FOLDER / "components" / name, found)
    return found


def _build(folder: Path, found: dict[tuple[str, str], Resource]) -> None:
    plan = load((folder / "kustomization.yaml").read_text())
    for name in [*plan.get("resources", ()), *plan.get("components", ())]:
        if (folder / name).is_dir():
            _build((folder / name).resolve(), found)
            continue
        for resource in load_all((folder / name).read_text()):
            assert key_of(resource) not in found, name
            found[key_of(resource)] = resource
    for patch in plan.get("patches", ()):
        change = load((folder / patch["path"]).read_text())
        assert key_of(change) in found, f"{folder}: {patch['path']} is a patch of nothing"
        found[key_of(change)] = merged(found[key_of(change)], change)


def deployments() -> Iterator[Any]:
    for folder in OVERLAYS:
        # KServe makes its Deployment itself.
        for extra in (
            ((), ("cache",), ("fetch",), ("cache", "fetch", "openshift"), ("cache", "volume"))
            if folder.name != "kserve"
            else ((),)
        ):
            yield pytest.param(built(folder, extra), id="-".join([folder.name, *extra]))


every_build = pytest.mark.parametrize("resources", list(deployments()))


@every_build
def test_core_kinds_are_valid(resources: dict[tuple[str, str], Resource]) -> None:
    for (kind, _), resource in resources.items():
        if kind not in NOT_VALIDATED:
            validate(yaml.safe_dump(resource))


@cache
def validate(resource: str) -> None:
    """Once for each that differs: reading the schemas takes a second."""
    kubernetes_validate.validate(load(resource), KUBERNETES, strict=True)


def test_the_schemas_notice_a_mistake() -> None:
    deployment = built(FOLDER / "base")["Deployment", "shortcut"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


def test_every_file_is_used() -> None:
    used = set()
    for path in KUSTOMIZATIONS:
        plan = load(path.read_text())
        names = [*plan.get("resources", ()), *(patch["path"] for patch in plan.get("patches", ()))]
        used |= {(path.parent / name).resolve() for name in names}
    values = FOLDER / "overlays" / "autoscaling-queue" / "prometheus-adapter.yaml"  # for Helm
    assert set(FOLDER.rglob("*.yaml")) - used - set(KUSTOMIZATIONS) == {values}


# What the pods are


def pods(resources: dict[tuple[str, str], Resource]) -> Iterator[Resource]:
    """The specification of every pod of ours."""
    for (kind, _), resource in resources.items():
        if kind == "Deployment":
            yield resource["spec"]["template"]["spec"]
        elif kind == "ServingRuntime":
            yield resource["spec"]


def environment(container: Resource) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


@every_build
def test_settings_are_the_services(resources: dict[tuple[str, str], Resource]) -> None:
    for pod in pods(resources):
        (container,) = pod["containers"]
        found = {
            name: value for name, value in environment(container).items() if name.startswith("SHORTCUT_") and value
        }
        Settings.from_environment(found)  # raises for a name or a value that is none
        assert found.keys() <= {f"SHORTCUT_{spec.name.upper()}" for spec in fields(Settings)}


@every_build
def test_grace_lasts_longer_than_drain_and_stop(resources: dict[tuple[str, str], Resource]) -> None:
    service = resources.get(("InferenceService", "digits-cnn-mnist"), {"spec": {"predictor": {}}})
    for pod in pods(resources):
        grace = (service["spec"]["predictor"] | pod).get("terminationGracePeriodSeconds", 30)
        assert grace >= int(environment(pod["containers"][0])["SHORTCUT_DRAIN_SECONDS"]) + STOP_SECONDS + 5


@every_build
def test_pods_run_as_nobody_special_on_a_root_that_takes_nothing(resources: dict[tuple[str, str], Resource]) -> None:
    for pod in pods(resources):
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            own = pod.get("securityContext", {}) | container["securityContext"]
            assert own["runAsNonRoot"]
            assert own["seccompProfile"] == {"type": "RuntimeDefault"}
            assert own.get("runAsGroup", 0) == 0
            assert own["readOnlyRootFilesystem"]
            assert not own["allowPrivilegeEscalation"]
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
        assert {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]} >= {"/tmp", "/dev/shm"}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"


@every_build
def test_every_pod_has_the_three_probes(resources: dict[tuple[str, str], Resource]) -> None:
    for pod in pods(resources):
        (container,) = pod["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        start = container["startupProbe"]
        assert start["periodSeconds"] * start["failureThreshold"] >= 2 * slowest_start()


def slowest_start() -> float:
    """Seconds that docs/scaling.md states of a start on a fifth of a core."""
    text = (ROOT / "docs" / "scaling.md").read_text()
    table = text.partition("| models | ready after, two starts |")[2].partition("\n\n")[0]
    return max(map(float, re.findall(r"([\d.]+) s\b", table)))


def test_openshift_chooses_the_user() -> None:
    (pod,) = pods(built(FOLDER / "base", ("openshift",)))
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["securityContext"].keys()


def test_cache_component_replaces_the_volume() -> None:
    (pod,) = pods(built(FOLDER / "base", ("cache",)))
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "cache"]
    assert volume == {"name": "cache", "persistentVolumeClaim": {"claimName": "shortcut-cache"}}


def test_volume_component_serves_the_claims_models() -> None:
    resources = built(FOLDER / "base", ("volume",))
    assert ("PersistentVolumeClaim", "shortcut-models") in resources
    (pod,) = pods(resources)
    (container,) = pod["containers"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "models"]
    assert volume["persistentVolumeClaim"] == {"claimName": "shortcut-models", "readOnly": True}
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "models"]
    assert mount["readOnly"]
    assert mount["mountPath"] == environment(container)["SHORTCUT_MODELS"]
    assert (ROOT / "models" / environment(container)["SHORTCUT_DEFAULT_MODEL"]).is_dir()


def test_selectors_mean_the_pods() -> None:
    resources = built(FOLDER / "base")
    labels = resources["Deployment", "shortcut"]["spec"]["template"]["metadata"]["labels"]
    spec = {kind: resource["spec"] for (kind, _), resource in resources.items()}
    for selector in (
        spec["Deployment"]["selector"]["matchLabels"],
        spec["Service"]["selector"],
        spec["PodDisruptionBudget"]["selector"]["matchLabels"],
        spec["NetworkPolicy"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    (port,) = spec["Service"]["ports"]
    (container,) = spec["Deployment"]["template"]["spec"]["containers"]
    assert port["targetPort"] in {port["name"] for port in container["ports"]}


def test_fetched_model_is_what_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    (pod,) = pods(built(FOLDER / "base", ("fetch",)))
    (container,), (init,) = pod["containers"], pod["initContainers"]
    module, *arguments = init["command"][2:]
    assert module == "serving.fetch"
    assert arguments[1:3] == ["--to", environment(container)["SHORTCUT_MODELS"]]
    config = built(FOLDER / "base", ("fetch",))["ConfigMap", "shortcut-model"]["data"]
    with pytest.raises(SystemExit):  # of argparse: the options are the command's, the sum is checked first
        fetch.main([*arguments[:-1], "no sum"])
    assert "--sha256 must be 64 hex digits" in capsys.readouterr().err
    assert re.fullmatch("[0-9a-f]{64}", config["sha256"])


def test_queue_is_asked_by_metrics_that_exist() -> None:
    text = (FOLDER / "overlays" / "autoscaling-queue" / "prometheus-adapter.yaml").read_text()
    (rule,) = load(text)["rules"]["custom"]
    named = set(re.findall(r"shortcut_\w+", rule["seriesQuery"] + rule["metricsQuery"]))
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert all(f"| `{name}` | gauge" in operations for name in named)
    scaler = built(FOLDER / "overlays" / "autoscaling-queue")["HorizontalPodAutoscaler", "shortcut"]
    names = [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"]
    assert names == [rule["name"]["as"]]


# Against the running service


def test_probes_are_answered(service: Client) -> None:
    for folder in OVERLAYS:
        for pod in pods(built(folder)):
            for name, probe in pod["containers"][0].items():
                if name.endswith("Probe"):
                    assert service.get(probe["httpGet"]["path"]).status == 200
    monitor = built(FOLDER / "base", ("monitoring",))["ServiceMonitor", "shortcut"]
    for endpoint in monitor["spec"]["endpoints"]:
        assert service.get(endpoint["path"]).status == 200


def test_kserve_speaks_version_2(service: Client) -> None:
    found = built(FOLDER / "overlays" / "kserve")
    runtime = found["ServingRuntime", "shortcut"]["spec"]
    model = found["InferenceService", "digits-cnn-mnist"]["spec"]["predictor"]["model"]
    assert model["runtime"] == "shortcut"
    assert model["protocolVersion"] in runtime["protocolVersions"]
    assert model["modelFormat"]["name"] in {form["name"] for form in runtime["supportedModelFormats"]}
    assert "open_inference" in environment(runtime["containers"][0])["SHORTCUT_PROTOCOLS"].split(",")
    # What a client must ask for is the model's own name. The service's name cannot be that: it may hold no underscore.
    default = environment(runtime["containers"][0])["SHORTCUT_DEFAULT_MODEL"]
    assert service.get(f"/v2/models/{default}/ready").status == 200
    assert service.get("/v2/models/digits-cnn-mnist/ready").status == 404
    told = (FOLDER / "overlays" / "kserve" / "inferenceservice.yaml").read_text()
    assert f"/v2/models/{default}/infer" in told
