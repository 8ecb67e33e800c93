package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

// One name that leads to all nodes is enough. The token is read from its file for each attempt, so that a login in another
// process is seen at once.
func ExampleNew() {
	ca, err := os.ReadFile("/etc/hizo/ca.pem")
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.New(client.Config{
		Addrs: []string{"hizo.example.org:7300"},
		CA:    ca,
		Token: client.TokenFile("/run/hizo/token"),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // for all attempts together
	defer cancel()
	who, err := c.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(who.GetPrincipal())
}

// A mutation whose outcome is unknown is repeated under its own request id: it takes effect once, whatever became of the
// first try.
func ExampleUnknownOutcomeError() {
	var c *client.Client // of client.New
	put := &hizov1.PutRequest{Vault: "ml", Path: "db/main", Fields: map[string][]byte{"password": []byte("…")}}

	ctx := context.Background()
	_, err := c.Secrets().Put(ctx, put)
	if unknown, is := errors.AsType[*client.UnknownOutcomeError](err); is {
		_, err = c.Secrets().Put(client.WithRequestID(ctx, unknown.RequestID), put)
	}
	switch {
	case err == nil:
	case client.IsReason(err, hizov1.ReasonConflict):
		log.Print("somebody else was faster: read the secret and decide again")
	default:
		log.Fatal(err)
	}
}

// Changes come in order, each at least once, from whichever node is there. A program that keeps the cursor misses nothing
// while it is not running.
func ExampleClient_Watch() {
	var c *client.Client // of client.New
	cursor := ""         // from where the last run stopped
	for change, err := range c.Watch(context.Background(), client.WatchConfig{Secrets: []string{"ml/db/main"}, Cursor: cursor}) {
		if err != nil {
			log.Fatal(err) // the right to it has ended
		}
		if change.Kind == client.ChangePromoted {
			fmt.Println("version", change.Version, "is current")
		}
		cursor = change.Cursor
	}
}
