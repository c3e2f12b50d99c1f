"""What no schema says: whether the objects fit each other, and what we promise of a deployment.

Each check takes all objects of a deployment and yields what is wrong; its name is what a fault in `faults` names."""

import re

import promql_parser
from manifests import name_of, settings_of

# Made by somebody else before the deployment is applied: README.md, "What to set".
EXTERNAL = {"Secret/skywave", "Secret/skywave-tls"}
# https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
}
# In which a node that cut its last connections ends.
END_SECONDS = 10


def of_kind(things, *kinds):
    return [thing for thing in things if thing["kind"] in kinds]


def pod_of(thing):
    return thing["spec"]["template"]["spec"]


def containers(things):
    for thing in of_kind(things, "Deployment"):
        for container in pod_of(thing).get("initContainers", []) + pod_of(thing)["containers"]:
            yield thing, container


def labels_of_pods(things):
    return [thing["spec"]["template"]["metadata"]["labels"] for thing in of_kind(things, "Deployment")]


def fits(wanted, labels):
    return wanted.items() <= labels.items()


def port_names(thing):
    return {port.get("name") for container in pod_of(thing)["containers"] for port in container.get("ports", [])}


def unique(things):
    """No object twice, no port of a pod twice."""
    names = [name_of(thing) for thing in things]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"{name} is there twice"
    for thing in of_kind(things, "Deployment"):
        ports = [port["name"] for container in pod_of(thing)["containers"] for port in container.get("ports", [])]
        if len(ports) != len(set(ports)):
            yield f"{name_of(thing)}: two ports of one name in {ports}"


def selectors(things):
    """Whoever selects pods selects some; a Deployment its own."""
    for thing in of_kind(things, "Deployment"):
        if not fits(thing["spec"]["selector"]["matchLabels"], thing["spec"]["template"]["metadata"]["labels"]):
            yield f"{name_of(thing)}: the selector is not in the pods' labels"
        for spread in pod_of(thing).get("topologySpreadConstraints", []):
            if not fits(spread["labelSelector"]["matchLabels"], thing["spec"]["template"]["metadata"]["labels"]):
                yield f"{name_of(thing)}: spreads pods that are not its own"
    for thing in of_kind(things, "Service", "PodDisruptionBudget", "PodMonitor", "NetworkPolicy"):
        spec = thing["spec"]
        wanted = spec["podSelector"] if "podSelector" in spec else spec["selector"]
        wanted = wanted if thing["kind"] == "Service" else wanted.get("matchLabels", {})
        if not any(fits(wanted, labels) for labels in labels_of_pods(things)):
            yield f"{name_of(thing)} selects no pod: {wanted}"


def ports(things):
    """Every port that is named is there."""
    for thing, container in containers(things):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = container.get(probe, {}).get("httpGet", {}).get("port")
            if isinstance(port, str) and port not in port_names(thing):
                yield f"{name_of(thing)}: {probe} asks port {port}"
    named = {name for thing in of_kind(things, "Deployment") for name in port_names(thing)}
    for thing in of_kind(things, "Service"):
        for port in thing["spec"]["ports"]:
            if isinstance(port.get("targetPort"), str) and port["targetPort"] not in named:
                yield f"{name_of(thing)} leads to port {port['targetPort']}"
    for thing in of_kind(things, "PodMonitor"):
        for endpoint in thing["spec"]["podMetricsEndpoints"]:
            if endpoint.get("port") not in named:
                yield f"{name_of(thing)} scrapes port {endpoint.get('port')}"
    for thing in of_kind(things, "NetworkPolicy"):
        for rule in thing["spec"].get("ingress", []) + thing["spec"].get("egress", []):
            for port in rule.get("ports", []):
                if isinstance(port["port"], str) and port["port"] not in named:
                    yield f"{name_of(thing)} speaks of port {port['port']}"


def peers(things):
    """Nodes reach each other's internal listener: a session of SockJS lives on one of them, and is asked for on all."""
    template = next(thing for thing in things if name_of(thing) == "Deployment/skywave")["spec"]["template"]
    node = template["metadata"]["labels"]

    def lets_through(rule, way):
        return any(port["port"] in ("internal", 8001) for port in rule.get("ports", [])) and any(
            peer.keys() == {"podSelector"} and fits(peer["podSelector"].get("matchLabels", {}), node)
            for peer in rule.get(way, [])
        )

    for thing in of_kind(things, "NetworkPolicy"):
        if not fits(thing["spec"]["podSelector"].get("matchLabels", {}), node):
            continue
        for direction, way in (("ingress", "from"), ("egress", "to")):
            if not any(lets_through(rule, way) for rule in thing["spec"].get(direction, [])):
                yield f"{name_of(thing)}: nodes do not reach each other ({direction})"


def backends(things):
    """What leads clients in leads to a Service and a port that are there."""
    services = {
        thing["metadata"]["name"]: {key for port in thing["spec"]["ports"] for key in (port["name"], port["port"])}
        for thing in of_kind(things, "Service")
    }
    wanted = []
    for thing in of_kind(things, "Ingress"):
        for rule in thing["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                wanted.append((thing, service["name"], service["port"].get("name", service["port"].get("number"))))
    for thing in of_kind(things, "HTTPRoute"):
        for rule in thing["spec"]["rules"]:
            wanted += [(thing, backend["name"], backend["port"]) for backend in rule.get("backendRefs", [])]
            if rule.get("timeouts", {}).get("request") != "0s":
                yield f"{name_of(thing)}: a WebSocket needs timeouts.request 0s"
    for thing, service, port in wanted:
        if port not in services.get(service, set()):
            yield f"{name_of(thing)} leads to {service}:{port}"
        elif port in (8001, "internal"):
            yield f"{name_of(thing)} opens the internal port to the world"


def references(things):
    """ConfigMaps, Secrets and service accounts are there, or are known to come from elsewhere."""
    there = {name_of(thing) for thing in things} | EXTERNAL
    for thing in of_kind(things, "Deployment"):
        pod, wanted = pod_of(thing), set()
        if "serviceAccountName" in pod:
            wanted.add(f"ServiceAccount/{pod['serviceAccountName']}")
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                wanted.add(f"ConfigMap/{volume['configMap']['name']}")
            if "secret" in volume:
                wanted.add(f"Secret/{volume['secret']['secretName']}")
        for container in pod["containers"]:
            for variable in container.get("env", []):
                for kind, key in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
                    if key in variable.get("valueFrom", {}):
                        wanted.add(f"{kind}/{variable['valueFrom'][key]['name']}")
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{name_of(thing)} mounts {mount['name']}, which is no volume"
        for name in sorted(wanted - there):
            yield f"{name_of(thing)} needs {name}"


def disruption(things):
    """A budget says one of the two, and lets machines be emptied."""
    replicas = {
        thing["metadata"]["name"]: thing["spec"].get("replicas", 3) for thing in of_kind(things, "Deployment")
    }
    for thing in of_kind(things, "PodDisruptionBudget"):
        spec = thing["spec"]
        if ("minAvailable" in spec) == ("maxUnavailable" in spec):
            yield f"{name_of(thing)}: one of minAvailable and maxUnavailable"
        elif spec.get("maxUnavailable") in (0, "0%") or spec.get("minAvailable") == "100%":
            yield f"{name_of(thing)} lets no pod go"
        elif isinstance(spec.get("minAvailable"), int) and spec["minAvailable"] >= replicas.get("skywave", 3):
            yield f"{name_of(thing)} lets no pod go"


def scaling(things):
    """One autoscaler at most, of something that is there, which then does not say itself how many it is."""
    scalers = of_kind(things, "HorizontalPodAutoscaler", "ScaledObject")
    if len(scalers) > 1:
        yield f"{len(scalers)} autoscalers pull at one Deployment"
    for thing in scalers:
        spec = thing["spec"]
        target = next((one for one in things if one["kind"] == spec["scaleTargetRef"].get("kind", "Deployment")
                       and one["metadata"]["name"] == spec["scaleTargetRef"]["name"]), None)
        if target is None:
            yield f"{name_of(thing)} scales {spec['scaleTargetRef']}, which is not there"
        elif "replicas" in target["spec"]:
            yield f"{name_of(target)} says replicas, and {name_of(thing)} as well"
        least, most = (spec.get(key, spec.get(other)) for key, other in
                       (("minReplicas", "minReplicaCount"), ("maxReplicas", "maxReplicaCount")))
        if least > most:
            yield f"{name_of(thing)}: at least {least} and at most {most}"


def rollout(things):
    """A roll can go on, and adds a node before it takes one."""
    for thing in of_kind(things, "Deployment"):
        rolling = thing["spec"].get("strategy", {}).get("rollingUpdate")
        if rolling and rolling.get("maxSurge") in (0, "0%") and rolling.get("maxUnavailable") in (0, "0%"):
            yield f"{name_of(thing)}: maxSurge and maxUnavailable are both 0"
    node = next(thing for thing in things if name_of(thing) == "Deployment/skywave")
    if node["spec"]["progressDeadlineSeconds"] <= node["spec"]["minReadySeconds"]:
        yield "Deployment/skywave: progressDeadlineSeconds is over before minReadySeconds"
    window = settings_of(things)[1].get("drain", {}).get("window")
    if window is not None and node["spec"]["minReadySeconds"] < seconds(window):
        yield f"Deployment/skywave: minReadySeconds is shorter than drain.window, {window}"


def seconds(duration):
    """Of a duration as settings have it: "1m 30s"."""
    units = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600}
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", duration)
    return sum(float(number) * units[unit] for number, unit in parts)


def grace(things):
    """The kubelet waits for the whole drain before it kills."""
    node = pod_of(next(thing for thing in things if name_of(thing) == "Deployment/skywave"))
    drain = settings_of(things)[1].get("drain", {})
    sleep = sum(
        one.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0) for one in node["containers"]
    )
    least = sleep + seconds(drain.get("deadline", "90s")) + END_SECONDS
    given = node.get("terminationGracePeriodSeconds", 30)
    if sleep == 0:
        yield "Deployment/skywave: no preStop sleep, so balancers send clients to a node that takes none"
    if given < least:
        yield f"Deployment/skywave: terminationGracePeriodSeconds is {given}, the drain needs {least:.0f}"


def probes(things):
    """A drain or an overload is seen at once, and neither it nor Redis ever restarts a node."""
    node = pod_of(next(thing for thing in things if name_of(thing) == "Deployment/skywave"))["containers"][0]
    ready, live = node.get("readinessProbe", {}), node.get("livenessProbe", {})
    if ready.get("httpGet", {}).get("path") != "/readyz" or ready.get("failureThreshold") != 1:
        yield "Deployment/skywave: readiness is /readyz with failureThreshold 1"
    if live.get("httpGet", {}).get("path") != "/livez":
        yield "Deployment/skywave: liveness is /livez, nothing that a drain or Redis turns red"


def sysctls(things):
    """Only those that a kubelet allows without being asked."""
    for thing in of_kind(things, "Deployment"):
        for sysctl in pod_of(thing).get("securityContext", {}).get("sysctls", []):
            if sysctl["name"] not in SAFE_SYSCTLS:
                yield f"{name_of(thing)}: sysctl {sysctl['name']} is not a safe one"


def restricted(things):
    """The Pod Security Standard `restricted`, and a root that nobody writes to."""
    for thing in of_kind(things, "Deployment"):
        pod = pod_of(thing)
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(key):
                yield f"{name_of(thing)}: {key}"
        for volume in pod.get("volumes", []):
            if not volume.keys() & {"configMap", "secret", "emptyDir", "projected"}:
                yield f"{name_of(thing)}: volume {volume}"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{name_of(thing)}: a token of the Kubernetes API that nobody needs"
    for thing, container in containers(things):
        both = pod_of(thing).get("securityContext", {}) | container.get("securityContext", {})
        said = {
            "runAsNonRoot": both.get("runAsNonRoot") is True and both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "allowPrivilegeEscalation": both.get("allowPrivilegeEscalation") is False,
            "capabilities": both.get("capabilities") == {"drop": ["ALL"]},
            "privileged": not both.get("privileged"),
            "readOnlyRootFilesystem": both.get("readOnlyRootFilesystem") is True,
        }
        for key in (key for key, holds in said.items() if not holds):
            yield f"{name_of(thing)}, container {container['name']}: {key}"


def images(things):
    """One version, the same tomorrow."""
    for thing, container in containers(things):
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in container["image"] and tag in ("", "latest"):
            yield f"{name_of(thing)}: image {container['image']}"


def resources(things):
    """Memory that is asked for is memory that is there; a throttled node answers pings too late."""
    for thing, container in containers(things):
        asked, most = (container.get("resources", {}).get(key, {}) for key in ("requests", "limits"))
        if "memory" not in asked or asked["memory"] != most.get("memory"):
            yield f"{name_of(thing)}: memory {asked.get('memory')} asked for, {most.get('memory')} at most"
        if "cpu" not in asked or "cpu" in most:
            yield f"{name_of(thing)}: CPU is asked for and not limited"


def expressions(things):
    for thing in of_kind(things, "PrometheusRule"):
        for group in thing["spec"]["groups"]:
            for rule in group["rules"]:
                yield thing, rule["expr"]
    for thing in of_kind(things, "ScaledObject"):
        for trigger in thing["spec"]["triggers"]:
            if "query" in trigger["metadata"]:
                yield thing, trigger["metadata"]["query"]


def promql(things):
    """Expressions are PromQL."""
    for thing, expression in expressions(things):
        try:
            promql_parser.parse(str(expression))
        except ValueError as error:
            yield f"{name_of(thing)}: {expression}: {error}"


def metric_names(things):
    """Ours that something of the deployment asks for; rules may ask for each other's results."""
    recorded = {
        rule["record"] for thing in of_kind(things, "PrometheusRule")
        for group in thing["spec"]["groups"] for rule in group["rules"] if "record" in rule
    }
    asked = {metric["pods"]["metric"]["name"] for thing in of_kind(things, "HorizontalPodAutoscaler")
             for metric in thing["spec"]["metrics"] if metric["type"] == "Pods"}
    for _, expression in expressions(things):
        asked |= set(re.findall(r"(?<![\w:])skywave_[a-z0-9_]+(?![\w:])", str(expression)))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked - recorded}


CHECKS = [unique, selectors, ports, peers, backends, references, disruption, scaling, rollout, grace, probes, sysctls,
          restricted, images, resources, promql]


def lint(things):
    for check in CHECKS:
        for message in check(things):
            yield check.__name__, message
