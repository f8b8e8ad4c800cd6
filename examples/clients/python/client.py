"""Connects a container, lists its addresses, and follows what happens to it until it is
disconnected.

Generate the stubs beside this file, then run it, as root for the Unix socket:

  pip install grpcio grpcio-tools
  python -m grpc_tools.protoc -I PROTOS --python_out=. --grpc_python_out=. PROTOS/*.proto
  python client.py unix:///run/circuit/circuit.sock CONTAINER NETWORK
"""

import sys

import circuit_pb2
import circuit_pb2_grpc
import events_pb2
import events_pb2_grpc
import grpc

# For each call; a watch has none, as it goes on.
SECONDS = 90


def connect(circuit, container, network):
    # Asking again changes nothing and gives the same address: try again without fear.
    request = circuit_pb2.ConnectRequest(container=container, network=network)
    answer = circuit.Connect(request, timeout=SECONDS)
    print(f"connected {container} to {network} with ip={answer.ip}", flush=True)


def addresses(circuit, container):
    request = circuit_pb2.GetContainerIPsRequest(container=container)
    answer = circuit.GetContainerIPs(request, timeout=SECONDS)
    for ip in answer.ips:
        print(f"{ip.network} {ip.ip} {ip.interface}", flush=True)
    for problem in answer.problems:
        print(f"problem: {problem.network}: {problem.message}", flush=True)


def follow(watch, network):
    for event in watch:
        print(f"{event.kind} {event.container} {event.network}", flush=True)
        if event.kind == "container.disconnected" and event.network == network:
            return


def main():
    target, container, network = sys.argv[1:]
    # A proxy of the environment is of no use for an address of this machine.
    with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        circuit = circuit_pb2_grpc.CircuitStub(channel)
        events = events_pb2_grpc.EventsStub(channel)
        try:
            connect(circuit, container, network)
            addresses(circuit, container)
            # What came between the connect and this is remembered: begin with it.
            request = events_pb2.WatchRequest(container=container, last=1)
            follow(events.Watch(request), network)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
