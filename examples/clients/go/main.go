// Connects a container, lists its addresses, and follows what happens to it until it is
// disconnected.
//
// Generate the stubs, build, then run it, as root for the Unix socket:
//
//	go install tool
//	protoc -I PROTOS --go_out=. --go-grpc_out=. \
//	    --go_opt=module=circuit-client --go-grpc_opt=module=circuit-client \
//	    --go_opt=Mcircuit.proto=circuit-client/pb --go-grpc_opt=Mcircuit.proto=circuit-client/pb \
//	    --go_opt=Mevents.proto=circuit-client/pb --go-grpc_opt=Mevents.proto=circuit-client/pb \
//	    circuit.proto events.proto
//	go build
//	./circuit-client unix:///run/circuit/circuit.sock CONTAINER NETWORK
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"circuit-client/pb"
)

// For each call; a watch has none, as it goes on.
const patience = 90 * time.Second

func connect(circuit pb.CircuitClient, container, network string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// Asking again changes nothing and gives the same address: try again without fear.
	answer, err := circuit.Connect(ctx, &pb.ConnectRequest{Container: container, Network: network})
	if err != nil {
		return err
	}
	fmt.Printf("connected %s to %s with ip=%s\n", container, network, answer.Ip)
	return nil
}

func addresses(circuit pb.CircuitClient, container string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := circuit.GetContainerIPs(ctx, &pb.GetContainerIPsRequest{Container: container})
	if err != nil {
		return err
	}
	for _, ip := range answer.Ips {
		fmt.Println(ip.Network, ip.Ip, ip.Interface)
	}
	for _, problem := range answer.Problems {
		fmt.Printf("problem: %s: %s\n", problem.Network, problem.Message)
	}
	return nil
}

func follow(events pb.EventsClient, container, network string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// What came between the connect and this is remembered: begin with it.
	watch, err := events.Watch(ctx, &pb.WatchRequest{Container: container, Last: 1})
	if err != nil {
		return err
	}
	for {
		event, err := watch.Recv()
		if err != nil {
			return err
		}
		fmt.Println(event.Kind, event.Container, event.Network)
		if event.Kind == "container.disconnected" && event.Network == network {
			return nil
		}
	}
}

func run(target, container, network string) error {
	// A proxy of the environment is of no use for an address of this machine.
	connection, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer connection.Close()
	circuit := pb.NewCircuitClient(connection)
	if err := connect(circuit, container, network); err != nil {
		return err
	}
	if err := addresses(circuit, container); err != nil {
		return err
	}
	return follow(pb.NewEventsClient(connection), container, network)
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: circuit-client TARGET CONTAINER NETWORK")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", status.Code(err), status.Convert(err).Message())
		os.Exit(1)
	}
}
