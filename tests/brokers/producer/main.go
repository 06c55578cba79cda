// A producer in Go with the plain client: one run with two phases, the second of which fails.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

func main() {
	connection, err := nats.Connect(os.Args[1])
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	stream, _ := connection.JetStream()
	number := 0
	say := func(kind, phase string, payload map[string]any) {
		number++
		event := map[string]any{
			"event_type": kind, "event_id": fmt.Sprintf("go-%d", number), "run_id": "go-1",
			"at_ns": time.Date(2026, 1, 1, 0, 0, number, 0, time.UTC).UnixNano(), "payload": payload,
		}
		if phase != "" {
			event["phase"] = phase
		}
		line, _ := json.Marshal(event)
		id := nats.MsgId(event["event_id"].(string))
		if _, err := stream.Publish("spanbus.v1.event.gopher.go-1", line, id); err != nil {
			panic(err)
		}
	}
	say("workflow.started", "", map[string]any{"workflow": "gopher", "phases": []string{"lint", "tests"}})
	say("workflow.phase.started", "lint", nil)
	say("workflow.phase.completed", "lint", map[string]any{"success": true})
	say("workflow.phase.started", "tests", nil)
	say("workflow.phase.failed", "tests", map[string]any{"result": "failure", "error_type": "*exec.ExitError", "error": "exit status 2"})
	say("workflow.failed", "", map[string]any{"workflow": "gopher", "error_type": "*exec.ExitError"})
}
