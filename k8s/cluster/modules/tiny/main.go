// Command tiny is the whole of the image localhost/berth/tiny: the sandbox of every pod, and what tests run in pods.
//
//	tiny                      wait for SIGTERM (what a sandbox does)
//	tiny serve [-port N] [-exit CODE] [-ready-after D]
//	                          answer GET / with the pod's name, GET /fetch?url=U with what U answers, log each request
//	tiny fetch URL            print what URL answers; exit 1 when it does not
//	tiny read FILE            print the file
//	tiny exit CODE [WORDS]    print the words and end with the code
//	tiny eat MIB              take that much memory, then wait
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	fetchTimeout = 10 * time.Second
	mostBytes    = 1 << 20
)

func main() {
	verb := ""
	if len(os.Args) > 1 {
		verb = os.Args[1]
	}
	switch verb {
	case "", "pause":
		wait()
	case "serve":
		serve(os.Args[2:])
	case "fetch":
		said, err := fetch(argument(2))
		end(err)
		fmt.Print(said)
	case "read":
		content, err := os.ReadFile(argument(2))
		end(err)
		os.Stdout.Write(content)
	case "exit":
		code, err := strconv.Atoi(argument(2))
		end(err)
		fmt.Println(strings.Join(os.Args[3:], " "))
		os.Exit(code)
	case "eat":
		mib, err := strconv.Atoi(argument(2))
		end(err)
		eat(mib)
		wait()
	default:
		end(fmt.Errorf("unknown verb %q", verb))
	}
}

func argument(place int) string {
	if len(os.Args) <= place {
		end(fmt.Errorf("%s needs an argument", os.Args[1]))
	}
	return os.Args[place]
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func wait() {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGINT, syscall.SIGTERM)
	// As process 1 of a sandbox it also inherits whatever is orphaned in it.
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, syscall.SIGCHLD)
	for {
		select {
		case <-told:
			return
		case <-orphans:
			for {
				pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				if pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

func serve(arguments []string) {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	port := flags.Int("port", 8080, "where to listen")
	code := flags.Int("exit", 0, "the exit code after SIGTERM")
	readyAfter := flags.Duration("ready-after", 0, "how long /health answers 503")
	end(flags.Parse(arguments))
	name, err := os.Hostname()
	end(err)
	began := time.Now()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		fmt.Printf("%s %s from %s\n", request.Method, request.URL.Path, request.RemoteAddr)
		fmt.Fprintln(answer, name)
	})
	mux.HandleFunc("/health", func(answer http.ResponseWriter, _ *http.Request) {
		if time.Since(began) < *readyAfter {
			answer.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/fetch", func(answer http.ResponseWriter, request *http.Request) {
		said, err := fetch(request.URL.Query().Get("url"))
		if err != nil {
			http.Error(answer, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprint(answer, said)
	})
	server := &http.Server{Addr: fmt.Sprintf(":%d", *port), Handler: mux, ReadHeaderTimeout: fetchTimeout}
	fmt.Printf("%s listens on %d\n", name, *port)
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			end(err)
		}
	}()
	wait()
	os.Exit(*code)
}

func fetch(url string) (string, error) {
	within, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(within, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, mostBytes))
	if err == nil && answer.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s: %s", answer.Status, said)
	}
	return string(said), err
}

func eat(mib int) {
	eaten := make([][]byte, 0, mib)
	for range mib {
		page := make([]byte, 1<<20)
		for at := 0; at < len(page); at += 4096 {
			page[at] = 1
		}
		eaten = append(eaten, page)
	}
	fmt.Printf("holds %d MiB\n", len(eaten))
}
