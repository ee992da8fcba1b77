// Command testlog reads go test -json and prints what a person wants to see:
// failures with their output, every skipped test with its reason, a line for
// each package, and the count.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// event is one line of go test -json (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

func main() {
	if len(os.Args) > 1 {
		fmt.Fprintf(os.Stderr, "testlog: %q: takes no arguments; reads go test -json from standard input\n", os.Args[1:])
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testlog:", err)
		os.Exit(1)
	}
}

func run() error {
	output := map[string][]string{} // by package and test
	var passed, failed, skipped int
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 64<<20)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			// The build's own complaints come as they are.
			fmt.Println(in.Text())
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "build-output":
			fmt.Print(e.Output)
		case "output":
			output[key] = append(output[key], e.Output)
		case "pass":
			if e.Test == "" {
				fmt.Printf("ok    %-40s %6.1fs\n", e.Package, e.Elapsed)
			} else {
				passed++
			}
			delete(output, key)
		case "skip":
			if e.Test == "" {
				continue // a package without tests
			}
			skipped++
			fmt.Printf("skip  %s: %s\n", strings.TrimPrefix(key, "labctl/"), reason(output[key]))
			delete(output, key)
		case "fail":
			if e.Test == "" {
				fmt.Printf("FAIL  %-40s %6.1fs\n%s", e.Package, e.Elapsed, strings.Join(output[key], ""))
			} else {
				failed++
				fmt.Printf("FAIL  %s\n%s", strings.TrimPrefix(key, "labctl/"), strings.Join(output[key], ""))
			}
			delete(output, key)
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return in.Err()
}

// reason is why a test was skipped: the first line it printed beside the
// framework's own.
func reason(lines []string) string {
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, "=== ") && !strings.HasPrefix(l, "--- ") {
			return l
		}
	}
	return "no reason given"
}
