package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"labctl/lab"
	"labctl/lab/packet"
)

// Compile makes classic BPF of a filter expression (pcap-filter(7)) for each
// link type that a lab has; of each packet it lets the first snap bytes pass,
// 0 for all. It runs `tcpdump -ddd`, which needs no privileges.
func Compile(ctx context.Context, expr string, snap int) (map[packet.LinkType][]unix.SockFilter, error) {
	program, err := exec.LookPath("tcpdump")
	if err != nil {
		return nil, &lab.Failure{Kind: lab.Unable, Err: errors.New("filter: tcpdump compiles it, and there is none here"),
			Cure: "install tcpdump (Debian: apt install tcpdump), or leave the filter out"}
	}
	compiled := map[packet.LinkType][]unix.SockFilter{}
	for _, on := range []struct {
		link packet.LinkType
		name string
	}{{packet.LinkEthernet, "EN10MB"}, {packet.LinkRaw, "RAW"}} {
		link := on.link
		cmd := exec.CommandContext(ctx, program, "-y", on.name, "-s", strconv.Itoa(snap), "-ddd", "--", expr)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err == nil {
			compiled[link], err = parseProgram(string(out))
		}
		if err != nil {
			why := lastLine(stderr.String())
			if why == "" {
				why = err.Error()
			}
			// What only Ethernet has (ether host ...) matches nothing elsewhere.
			if link == packet.LinkRaw && compiled[packet.LinkEthernet] != nil {
				compiled[link] = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
				continue
			}
			return nil, &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("filter %q: %s", expr, why), Cure: "man pcap-filter has the grammar"}
		}
	}
	return compiled, nil
}

// Cut is a filter that lets the first snap bytes of every packet pass.
func Cut(snap int) map[packet.LinkType][]unix.SockFilter {
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: uint32(snap)}}
	return map[packet.LinkType][]unix.SockFilter{packet.LinkEthernet: program, packet.LinkRaw: program}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "tcpdump: ")
}

// longestProgram is BPF_MAXINSNS: the kernel takes no longer one.
const longestProgram = 4096

// parseProgram reads `tcpdump -ddd`: the number of instructions, then one a
// line, in decimal.
func parseProgram(text string) ([]unix.SockFilter, error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	n, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || n != len(lines)-1 || n < 1 || n > longestProgram {
		return nil, fmt.Errorf("tcpdump -ddd: says %.20q, then come %d instructions; want the same number, 1 to %d", lines[0], len(lines)-1, longestProgram)
	}
	program := make([]unix.SockFilter, n)
	for i, l := range lines[1:] {
		var rest string
		in := &program[i]
		if fields, _ := fmt.Sscan(l, &in.Code, &in.Jt, &in.Jf, &in.K, &rest); fields != 4 {
			return nil, fmt.Errorf("tcpdump -ddd: %.60q: not the four numbers of an instruction", l)
		}
	}
	return program, nil
}
