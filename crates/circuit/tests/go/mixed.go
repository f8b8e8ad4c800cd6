// Asks for names as CoreDNS does, and on the same connection for other things: first
// questions alone, then everything at once. Prints how many calls were answered.
//
//	mixed TARGET QUESTION-IN-HEX
package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	alone   = 50
	atOnce = 200
)

func run(target, question string) error {
	asked, err := hex.DecodeString(question)
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	// The messages of CoreDNS look like this one on the wire.
	ask := func() error {
		var answer wrapperspb.BytesValue
		err := connection.Invoke(ctx, "/coredns.dns.DnsService/Query", wrapperspb.Bytes(asked), &answer)
		if err == nil && (len(answer.Value) < len(asked) || answer.Value[0] != asked[0]) {
			return fmt.Errorf("no answer: %x", answer.Value)
		}
		return err
	}
	check := func() error {
		_, err := health.NewHealthClient(connection).Check(ctx, &health.HealthCheckRequest{})
		return err
	}
	for range alone {
		if err := ask(); err != nil {
			return fmt.Errorf("alone: %w", err)
		}
	}
	ended := make(chan error)
	for range atOnce / 2 {
		go func() { ended <- ask() }()
		go func() { ended <- check() }()
	}
	for range atOnce {
		if err := <-ended; err != nil {
			return fmt.Errorf("at once: %w", err)
		}
	}
	fmt.Println(alone + atOnce)
	return nil
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: mixed TARGET QUESTION-IN-HEX")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
