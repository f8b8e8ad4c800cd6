"""A client of Circuit's API in another language, generated from the .proto files.

Calls every RPC that the daemon offers, on the daemon of a test node that has
the containers `shell` (running), `web` (running, labelled for the network
`auto`, restarted always) and `idle` (without a task). See python_client.rs.
"""

import argparse
import importlib
import json
import socket
import sys
import tempfile
import time
from pathlib import Path

import dns.message
import dns.rcode
import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_tools import protoc

NAMES = ["Circuit", "Cluster", "Containers", "Dns", "Doctor", "Events", "Ipam", "Networks"]
SERVICES = ["coredns.dns.DnsService", *(f"io.circuit.v1.{name}" for name in NAMES)]
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
PATIENCE = 30
Code = grpc.StatusCode


class Called(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Remembers which methods were called."""

    def __init__(self):
        self.methods = set()

    def _call(self, proceed, details, request):
        self.methods.add(details.method)
        return proceed(details, request)

    intercept_unary_unary = _call
    intercept_unary_stream = _call
    intercept_stream_stream = _call


def generate(protos, out):
    """Generates the client and returns its modules by file name."""
    well_known = Path(protoc.__file__).parent / "_proto"
    files = sorted(path.name for path in protos.glob("*.proto"))
    arguments = [f"-I{protos}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}"]
    code = protoc.main(["protoc", *arguments, *files])
    equal(code, 0, "protoc's exit code")
    sys.path.insert(0, out)
    names = [file.removesuffix(".proto") for file in files]
    return {
        name: (importlib.import_module(f"{name}_pb2"), importlib.import_module(f"{name}_pb2_grpc"))
        for name in names
    }


def equal(found, wanted, what):
    if found != wanted:
        raise AssertionError(f"{what}: wanted {wanted!r}, found {found!r}")


def refused(call, request, code, *parts):
    """The call must fail with this code, and a message that says what to do."""
    what = f"{type(request).__name__} {str(request)!r}"
    try:
        answer = call(request, timeout=PATIENCE)
    except grpc.RpcError as error:
        equal(error.code(), code, f"the code of {what} ({error.details()})")
        for part in parts:
            if part not in error.details():
                raise AssertionError(f"{what}: no {part!r} in {error.details()!r}") from None
        return
    raise AssertionError(f"{what} was answered: {answer}")


def wait_for(what, ask):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def bridge(name, subnet):
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}]]}
    plugin = {"type": "bridge", "bridge": name, "isGateway": True, "ipam": ipam}
    # The blanks at the end: what is stored is what was sent, byte for byte.
    return json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [plugin]}).encode() + b" \n\n"


class Session:
    """The stubs of a connection, one method a service."""

    def __init__(self, channel, modules):
        self.channel = channel
        self.pb, circuit = modules["circuit"]
        self.cluster_pb, cluster = modules["cluster"]
        self.containers_pb, containers = modules["containers"]
        self.ipam_pb, ipam = modules["ipam"]
        self.networks = circuit.CircuitStub(channel)
        self.cluster = cluster.ClusterStub(channel)
        self.containers = containers.ContainersStub(channel)
        self.ipam = ipam.IpamStub(channel)
        self.dns_pb, dns = modules["dns"]
        self.names = dns.DnsStub(channel)
        self.coredns_pb, coredns = modules["coredns"]
        self.coredns = coredns.DnsServiceStub(channel)
        self.described_pb, described = modules["networks"]
        self.described = described.NetworksStub(channel)
        self.events_pb, events = modules["events"]
        self.events = events.EventsStub(channel)
        self.doctor_pb, doctor = modules["doctor"]
        self.doctor = doctor.DoctorStub(channel)

    def ips(self, container, network=""):
        request = self.pb.GetContainerIPsRequest(container=container, network=network)
        return self.networks.GetContainerIPs(request, timeout=PATIENCE)

    def addresses(self, container, network=""):
        return [(ip.network, ip.ip, ip.interface) for ip in self.ips(container, network).ips]

    def create(self, name, data, **more):
        request = self.pb.CreateNetworkRequest(name=name, data=data, **more)
        self.networks.CreateNetwork(request, timeout=PATIENCE)

    def waiting(self):
        """A labelled container tells what it waits for, and stops waiting."""
        problem = wait_for("the missing network is reported", lambda: self.ips("web").problems)[0]
        equal((problem.container, problem.network), ("web", "auto"), "the problem")
        self.create("auto", bridge("auto", "10.10.0.0/24"))
        wanted = [("auto", "10.10.0.2", "eth0")]
        wait_for("web is connected", lambda: self.addresses("web") == wanted)
        equal(list(self.ips("web").problems), [], "problems of web")
        request = self.pb.GetNetworkRequest(name="auto")
        answer = self.networks.GetNetwork(request, timeout=PATIENCE)
        equal(list(answer.problems), [], "problems of auto")

    def storing(self):
        pb, networks = self.pb, self.networks
        self.create("ctr0", bridge("ctr0", "10.20.0.0/24"))
        create = pb.CreateNetworkRequest
        for name, data, code in [
            ("", b"{}", Code.INVALID_ARGUMENT),
            ("../ctr1", bridge("ctr1", "10.21.0.0/24"), Code.INVALID_ARGUMENT),
            ("ctr1", b"not json", Code.INVALID_ARGUMENT),
            ("ctr1", b"", Code.INVALID_ARGUMENT),
            ("ctr1", bridge("other", "10.21.0.0/24"), Code.INVALID_ARGUMENT),
            ("ctr0", bridge("ctr0", "10.20.0.0/24"), Code.ALREADY_EXISTS),
            ("ctr1", bridge("ctr1", "10.20.0.128/25"), Code.FAILED_PRECONDITION),
        ]:
            refused(networks.CreateNetwork, create(name=name, data=data), code)
        self.create("forced", bridge("forced", "10.20.0.128/25"), force=True)
        listed = networks.ListNetworks(pb.ListNetworksRequest(), timeout=PATIENCE)
        equal([n.name for n in listed.networks], ["auto", "ctr0", "forced"], "networks")
        equal(list(listed.problems), [], "problems of the store")
        stored = networks.GetNetwork(pb.GetNetworkRequest(name="ctr0"), timeout=PATIENCE).network
        equal((stored.name, stored.data), ("ctr0", bridge("ctr0", "10.20.0.0/24")), "ctr0")
        refused(networks.GetNetwork, pb.GetNetworkRequest(name="none"), Code.NOT_FOUND, "none")

    def connecting(self):
        pb, networks = self.pb, self.networks
        wish = pb.ConnectRequest(container="shell", network="ctr0")
        first = networks.Connect(wish, timeout=PATIENCE)
        equal(first.ip, "10.20.0.2", "the address")
        equal((list(first.ips), first.interface), (["10.20.0.2"], "eth0"), "the attachment")
        equal(networks.Connect(wish, timeout=PATIENCE), first, "connected twice")
        networks.Connect(pb.ConnectRequest(container="shell", network="auto"), timeout=PATIENCE)
        both = [("ctr0", "10.20.0.2", "eth0"), ("auto", "10.10.0.3", "eth1")]
        equal(self.addresses("shell"), both, "addresses")
        equal(self.addresses("shell", "auto"), both[1:], "addresses on auto")
        equal(self.addresses("shell", "forced"), [], "addresses on forced")
        for container, network, code, part in [
            ("none", "ctr0", Code.NOT_FOUND, "none"),
            ("shell", "none", Code.NOT_FOUND, "none"),
            ("idle", "ctr0", Code.FAILED_PRECONDITION, "idle"),
            ("", "ctr0", Code.INVALID_ARGUMENT, "container"),
            ("shell", "", Code.INVALID_ARGUMENT, "network"),
        ]:
            request = pb.ConnectRequest(container=container, network=network)
            refused(networks.Connect, request, code, part)
        request = pb.GetContainerIPsRequest(container="none")
        refused(networks.GetContainerIPs, request, Code.NOT_FOUND, "none")

    def naming(self):
        """Names, asked for by our service and as CoreDNS does."""
        request = self.dns_pb.QueryNameRequest(name="shell.ctr0")
        answer = self.names.QueryName(request, timeout=PATIENCE)
        found = [(record.type, record.data) for record in answer.records]
        equal((answer.code, answer.source, found), ("NOERROR", "zone", [("A", "10.20.0.2")]), "name")
        request = self.dns_pb.QueryNameRequest(name="shell.ctr0", type="NONSENSE")
        refused(self.names.QueryName, request, Code.INVALID_ARGUMENT, "NONSENSE")
        request = self.dns_pb.ListNamesRequest(suffix="ctr0.circuit.internal")
        listed = self.names.ListNames(request, timeout=PATIENCE).records
        equal([record.name for record in listed], ["shell.ctr0.circuit.internal"], "names")
        asked = dns.message.make_query("shell.ctr0.", "A")
        packet = self.coredns_pb.DnsPacket(msg=asked.to_wire())
        answer = dns.message.from_wire(self.coredns.Query(packet, timeout=PATIENCE).msg)
        equal((answer.id, answer.rcode()), (asked.id, dns.rcode.NOERROR), "answer to coredns")
        equal([str(r) for rrset in answer.answer for r in rrset], ["10.20.0.2"], "address")
        other = dns.message.make_query("example.com.", "A")
        packet = self.coredns_pb.DnsPacket(msg=other.to_wire())
        answer = dns.message.from_wire(self.coredns.Query(packet, timeout=PATIENCE).msg)
        equal(answer.rcode(), dns.rcode.REFUSED, "a name that is not ours")
        nonsense = self.coredns_pb.DnsPacket(msg=b"nonsense")
        refused(self.coredns.Query, nonsense, Code.INVALID_ARGUMENT, "dns")

    def disconnecting(self):
        pb, networks = self.pb, self.networks
        delete = pb.DeleteNetworkRequest
        refused(networks.DeleteNetwork, delete(name="ctr0"), Code.FAILED_PRECONDITION, "shell")
        wish = pb.DisconnectRequest(container="shell", network="auto")
        networks.Disconnect(wish, timeout=PATIENCE)
        refused(networks.Disconnect, wish, Code.FAILED_PRECONDITION, "shell", "auto")
        equal(self.addresses("shell"), [("ctr0", "10.20.0.2", "eth0")], "addresses")
        for container, network in [("none", "ctr0"), ("shell", "none")]:
            request = pb.DisconnectRequest(container=container, network=network)
            refused(networks.Disconnect, request, Code.NOT_FOUND, "none")
        for _ in range(20):
            again = pb.DisconnectRequest(container="shell", network="ctr0")
            networks.Disconnect(again, timeout=PATIENCE)
            equal(self.addresses("shell"), [], "addresses straight after a disconnect")
            networks.Connect(pb.ConnectRequest(container="shell", network="ctr0"), timeout=PATIENCE)
        networks.DeleteNetwork(delete(name="ctr0", force=True), timeout=PATIENCE)
        equal(self.addresses("shell"), [], "addresses after the network went")
        networks.DeleteNetwork(delete(name="forced"), timeout=PATIENCE)
        refused(networks.DeleteNetwork, delete(name="ctr0"), Code.NOT_FOUND, "ctr0")

    def stopping(self):
        pb, containers = self.containers_pb, self.containers
        before = self.addresses("web")
        restart = pb.RestartRequest(container="web", timeout_seconds=5)
        first = containers.Restart(restart, timeout=PATIENCE).pid
        wait_for("web is connected again", lambda: self.addresses("web") == before)
        containers.Stop(pb.StopRequest(container="web", timeout_seconds=5), timeout=PATIENCE)
        equal(self.addresses("web"), [], "addresses of a stopped container")
        second = containers.Start(pb.StartRequest(container="web"), timeout=PATIENCE).pid
        equal(first > 0 and second > 0 and first != second, True, f"pids {first}, {second}")
        wait_for("web is connected again", lambda: self.addresses("web") == before)
        again = containers.Start(pb.StartRequest(container="web"), timeout=PATIENCE).pid
        equal(again, second, "the pid of a container that is started twice")
        for call, request in [
            (containers.Stop, pb.StopRequest),
            (containers.Start, pb.StartRequest),
            (containers.Restart, pb.RestartRequest),
        ]:
            refused(call, request(container="none"), Code.NOT_FOUND, "none")
            refused(call, request(), Code.INVALID_ARGUMENT, "container")

    def describing(self):
        """Networks in a few words: written, seen with everyone on them, tidied up."""
        pb, networks = self.described_pb, self.described
        wish = {"name": "few", "subnets": ["10.30.0.0/24"], "internal": True}
        dry = networks.Create(pb.DescribeNetworkRequest(dry_run=True, **wish), timeout=PATIENCE)
        request = self.pb.GetNetworkRequest(name="few")
        refused(self.networks.GetNetwork, request, Code.NOT_FOUND, "few")
        made = networks.Create(pb.DescribeNetworkRequest(**wish), timeout=PATIENCE)
        equal(made, dry, "what was written")
        equal(json.loads(made.network.data)["plugins"][0]["bridge"], "br-few", "the bridge")
        again = pb.DescribeNetworkRequest(**wish)
        refused(networks.Create, again, Code.ALREADY_EXISTS, "few")
        wrong = pb.DescribeNetworkRequest(name="more", driver="wormhole")
        refused(networks.Create, wrong, Code.INVALID_ARGUMENT, "wormhole")
        connect = self.pb.ConnectRequest(
            container="shell", network="few", ips=["10.30.0.77"], aliases=["sh"], interface="lan0"
        )
        equal(self.networks.Connect(connect, timeout=PATIENCE).ip, "10.30.0.77", "the address")
        seen = networks.Inspect(pb.InspectNetworkRequest(name="few"), timeout=PATIENCE)
        told = (list(seen.subnets), seen.ipam, seen.pools[0].size, seen.pools[0].used)
        equal(told, (["10.30.0.0/24"], "host-local", 253, 1), "few")
        on = seen.members[0].attachment
        told = (seen.members[0].container, list(on.ips), on.interface, list(on.aliases), on.origin)
        equal(told, ("shell", ["10.30.0.77"], "lan0", ["sh"], "request"), "who is on few")
        refused(networks.Inspect, pb.InspectNetworkRequest(name="none"), Code.NOT_FOUND, "none")

    def listing(self):
        """The containers with everything that is known of them."""
        request = self.containers_pb.ListContainersRequest(here=True, traffic=True)
        all_of_them = self.containers.List(request, timeout=PATIENCE).containers
        by_id = {container.id: container for container in all_of_them}
        equal(sorted(by_id), ["idle", "shell", "web"], "containers")
        states = [by_id[name].state for name in ("idle", "shell", "web")]
        equal(states, ["absent", "running", "running"], "states")
        equal(by_id["web"].restart.policy, "always", "the policy of web")
        on = by_id["shell"].networks[0]
        equal((on.network, on.HasField("sent_bytes")), ("few", True), "a network of shell")

    def pruning(self):
        pb = self.described_pb
        kept = [one for one in self.described.Prune(pb.PruneNetworksRequest(dry_run=True), timeout=PATIENCE)]
        told = [(one.name, one.kept.split()[0] if one.kept else "") for one in kept]
        equal(told, [("auto", "used"), ("few", "used")], "what would be kept")
        wish = self.pb.DisconnectRequest(container="shell", network="few")
        self.networks.Disconnect(wish, timeout=PATIENCE)
        pruned = self.described.Prune(pb.PruneNetworksRequest(), timeout=PATIENCE)
        gone = [one.name for one in pruned if not one.kept]
        equal(gone, ["few"], "what was deleted")

    def watching(self):
        """What has happened, in order, and what happens from there on."""
        pb, watch = self.events_pb, self.events.Watch
        request = pb.WatchRequest(last=1000, network="few")
        events = watch(request, timeout=PATIENCE)
        kinds = ["network.created", "container.connected", "container.disconnected", "network.deleted"]
        found = [next(events) for _ in kinds]
        equal([event.kind for event in found], kinds, "events of few")
        ids = [event.id for event in found]
        equal(ids, sorted(set(ids)), "ids of events")
        equal((found[1].container, list(found[1].ips)), ("shell", ["10.30.0.77"]), "who was connected")
        self.create("few", bridge("few", "10.31.0.0/24"))
        equal(next(events).kind, "network.created", "an event as it happens")
        events.cancel()
        later = watch(pb.WatchRequest(after=ids[-1], network="few"), timeout=PATIENCE)
        equal(next(later).kind, "network.created", "what came after an event")
        later.cancel()
        request = self.pb.DeleteNetworkRequest(name="few")
        self.networks.DeleteNetwork(request, timeout=PATIENCE)
        wrong = pb.WatchRequest(kinds=["nonsense"])
        refused(lambda *a, **k: list(watch(*a, **k)), wrong, Code.INVALID_ARGUMENT, "nonsense")

    def examining(self):
        found = list(self.doctor.Examine(self.doctor_pb.ExamineRequest(), timeout=PATIENCE))
        checks = {"containerd", "store", "kernel", "attachments", "leaks", "containers"}
        equal(checks - {one.check for one in found}, set(), "what was not examined")
        bad = [one for one in found if one.level == "problem"]
        equal(bad, [], "problems of the node")

    def nodes(self):
        request = self.cluster_pb.NodesRequest()
        nodes = self.cluster.Nodes(request, timeout=PATIENCE).nodes
        equal([node.name for node in nodes], [socket.gethostname()], "nodes")
        node = nodes[0]
        told = [node.version, node.cpus > 0, node.memory > 1 << 20, node.uptime, node.kernel_version]
        equal(all(told), True, f"what is told of {node}")

    def alone(self):
        """No registry, and no pools that nodes share."""
        status = self.cluster.Status(self.cluster_pb.StatusRequest(), timeout=PATIENCE)
        equal((status.registry, status.connected, len(status.nodes)), ("", False, 1), "status")
        request = self.ipam_pb.ListAddressesRequest()
        addresses = self.ipam.ListAddresses(request, timeout=PATIENCE).addresses
        equal(list(addresses), [], "addresses")
        request = self.ipam_pb.ReleaseAddressesRequest(address="10.9.9.9")
        refused(self.ipam.ReleaseAddresses, request, Code.NOT_FOUND, "10.9.9.9")

    def health(self):
        stub = health_pb2_grpc.HealthStub(self.channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        for service in ["", *SERVICES]:
            request = health_pb2.HealthCheckRequest(service=service)
            equal(stub.Check(request, timeout=PATIENCE).status, serving, f"health of {service!r}")
            watch = stub.Watch(request, timeout=PATIENCE)
            equal(next(watch).status, serving, f"watched health of {service!r}")
            watch.cancel()
        request = health_pb2.HealthCheckRequest(service="none")
        refused(stub.Check, request, Code.NOT_FOUND)
        return stub

    def reflection(self, protos):
        """The daemon describes itself as the .proto files do."""
        database = ProtoReflectionDescriptorDatabase(self.channel)
        services = sorted(database.get_services())
        equal(services, sorted([*SERVICES, HEALTH, REFLECTION]), "services")
        pool = DescriptorPool(database)
        for module in protos:
            for name, service in module.DESCRIPTOR.services_by_name.items():
                theirs = pool.FindServiceByName(service.full_name)
                methods = [method(m) for m in service.methods]
                equal([method(m) for m in theirs.methods], methods, f"methods of {name}")
            for name, message in module.DESCRIPTOR.message_types_by_name.items():
                theirs = pool.FindMessageTypeByName(message.full_name)
                equal(fields(theirs), fields(message), f"fields of {name}")
        return pool

    def reflection_v1(self):
        """The same protocol under its newer name."""
        call = self.channel.stream_stream(
            f"/{REFLECTION_V1}/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        request = reflection_pb2.ServerReflectionRequest(list_services="*")
        answer = next(call(iter([request]), timeout=PATIENCE))
        services = sorted(one.name for one in answer.list_services_response.service)
        equal(services, sorted([*SERVICES, HEALTH, REFLECTION_V1]), "services of v1")


def method(descriptor):
    return (descriptor.name, descriptor.input_type.full_name, descriptor.output_type.full_name)


def fields(descriptor):
    return [(f.name, f.number, f.type, f.is_repeated) for f in descriptor.fields]


def channel(target):
    # The proxy of the machine is of no use for a local address.
    return grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)])


def everything(pool):
    """Every method that the daemon says it has."""
    for name in [*SERVICES, HEALTH, REFLECTION]:
        for one in pool.FindServiceByName(name).methods:
            yield f"/{name}/{one.name}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--protos", type=Path, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--other-target", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        modules = generate(arguments.protos, out)
    called = Called()
    session = Session(grpc.intercept_channel(channel(arguments.target), called), modules)
    session.health()
    pool = session.reflection([pb for pb, _ in modules.values() if pb.DESCRIPTOR.name != "internal.proto"])
    session.reflection_v1()
    session.nodes()
    session.alone()
    session.waiting()
    session.storing()
    session.connecting()
    session.naming()
    session.stopping()
    session.disconnecting()
    session.describing()
    session.listing()
    session.pruning()
    session.watching()
    session.examining()
    left = sorted(set(everything(pool)) - called.methods)
    equal(left, [], "methods that were not called")
    Session(channel(arguments.other_target), modules).nodes()
    print(f"called {len(called.methods)} methods of {len(SERVICES) + 3} services")


if __name__ == "__main__":
    main()
