// Tiny stands in for an agent where only its container matters: contract tests and benchmarks of a runtime.
//
// It is ready in milliseconds, answers /health like an agent, and ends with an agent's exit codes. What else it does it
// is told by its environment:
//
//	TINY_EXIT_AFTER  a duration ("200ms"): leave by itself after it, with TINY_EXIT_CODE (75 unless given)
//	TINY_DEAF        "1": hear no SIGTERM, as a hung agent
//	TINY_EAT_MIB     that much memory is taken and kept
//	TINY_READY_AFTER a duration: /health says 503 until then
//
// With the agent's token, POST /leave?code=N makes it leave as ordered by whoever sent it.
package main

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const (
	partCrashed = 75
	cannotStart = 78
	toldByHost  = 143
)

func main() {
	born := time.Now()
	attempt := setting("AGENT_ATTEMPT", "1")
	eaten := eat(number("TINY_EAT_MIB", 0))
	unready := duration("TINY_READY_AFTER")

	// Without a token nobody may order it: an empty one would let everybody in.
	token := os.Getenv("AGENT_TOKEN")
	leave := make(chan int, 1)
	http.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		status, code := "healthy", http.StatusOK
		if time.Since(born) < unready {
			status, code = "starting", http.StatusServiceUnavailable
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"status": status, "uptime": time.Since(born).Seconds(), "memory": len(eaten), "browserActive": false,
		})
	})
	http.HandleFunc("/leave", func(w http.ResponseWriter, r *http.Request) {
		shown := r.Header.Get("X-Agent-Token")
		if token == "" || subtle.ConstantTimeCompare([]byte(shown), []byte(token)) != 1 {
			http.Error(w, "the agent's token is needed", http.StatusUnauthorized)
			return
		}
		code, err := strconv.Atoi(r.URL.Query().Get("code"))
		if r.Method != http.MethodPost || err != nil || code < 0 || code > 255 {
			http.Error(w, "POST with code=0..255", http.StatusUnprocessableEntity)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		select {
		case leave <- code:
		default: // it is leaving already
		}
	})

	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	if os.Getenv("TINY_DEAF") == "1" {
		signal.Reset()
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	}
	var over <-chan time.Time
	if after := duration("TINY_EXIT_AFTER"); after > 0 {
		over = time.After(after)
	}

	address := ":" + setting("AGENT_PORT", "8080")
	server := &http.Server{Addr: address, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	fmt.Printf("tiny agent, attempt %s on %s\n", attempt, address)

	select {
	case <-told:
		end(toldByHost, "told by the host")
	case code := <-leave:
		// The answer to the order shall get out before the process is gone.
		time.Sleep(50 * time.Millisecond)
		end(code, "ordered")
	case <-over:
		end(number("TINY_EXIT_CODE", partCrashed), "as its environment says")
	case err := <-failed:
		end(cannotStart, err.Error())
	}
}

// end leaves the same last word as an agent: one JSON line where Kubernetes looks for it.
func end(code int, reason string) {
	line, _ := json.Marshal(map[string]any{"code": code, "reason": reason, "at": time.Now().UTC().Format(time.RFC3339Nano)})
	_ = os.WriteFile("/dev/termination-log", append(line, '\n'), 0o600)
	fmt.Printf("tiny agent leaves with %d: %s\n", code, reason)
	os.Exit(code)
}

func eat(mib int) []byte {
	held := make([]byte, mib<<20)
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	return held
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func number(name string, otherwise int) int {
	value, err := strconv.Atoi(setting(name, strconv.Itoa(otherwise)))
	if err != nil || value < 0 {
		end(cannotStart, fmt.Sprintf("%s must be a number, not %q", name, os.Getenv(name)))
	}
	return value
}

func duration(name string) time.Duration {
	value, err := time.ParseDuration(setting(name, "0s"))
	if err != nil || value < 0 {
		end(cannotStart, fmt.Sprintf("%s must be a duration like 200ms, not %q", name, os.Getenv(name)))
	}
	return value
}
