package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/lab/ping"
	"labctl/lab/trace"
)

func (a *app) traceCommand() *cobra.Command {
	p := trace.Probe{Protocol: "icmp"}
	var tcp, udp uint16
	var file string
	c := &cobra.Command{
		Use:   "trace A B",
		Short: "Follow one packet, hop by hop, and say what decided each",
		Long: `Send one marked packet from endpoint A to endpoint or address B, watch it on every
interface of the lab, there and back, plain and inside tunnels, and print each
place with the route, neighbour, FDB entry, netfilter rule or lease that decided.

When it does not arrive: where it was seen last, where it is missing, and the
likely cause with its evidence. Exit status 1 then.`,
		Example: `  labctl trace node1.c1 node2.c1
  labctl trace node1.c1 node2.c1 --tcp 80
  labctl trace node1.c1 node2.c1 --size 1422 --df     # 1450 bytes, not to be fragmented
  labctl trace node1.c1 node2.c1 -o mermaid           # a sequence diagram
  labctl trace node1.c1 node2.c1 -w trace.pcapng      # for Wireshark, with a comment at each packet`,
		Annotations:       map[string]string{outputsToo: "mermaid"},
		Args:              arguments(2, 2, "two endpoints"),
		ValidArgsFunction: upTo(2, a.completeEndpoints),
		RunE: func(c *cobra.Command, args []string) error {
			set := c.Flags().Changed
			switch {
			case set("tcp") && set("udp"):
				return usage(errors.New("--tcp, --udp: a packet is one of them"), "leave out one")
			case set("tcp"):
				p.Protocol, p.Port = "tcp", tcp
			case set("udp"):
				p.Protocol, p.Port = "udp", udp
			}
			if !set("size") && p.Protocol == "tcp" {
				p.Size = 0 // a SYN is empty
			}
			if p.Protocol != "icmp" && p.Port == 0 {
				return usage(fmt.Errorf("--%s 0: no port", p.Protocol), "give one from 1 to 65535")
			}
			if p.Size < 0 || p.Size > ping.MaxSize-12 {
				return usage(fmt.Errorf("--size %d: not between 0 and %d", p.Size, ping.MaxSize-12), "the payload and its headers make an IPv4 packet")
			}
			if p.Wait <= 0 {
				return usage(fmt.Errorf("--timeout %v: no time for an answer", p.Wait), "give a duration such as 500ms")
			}
			var err error
			if p.From, err = endpoint(args[0]); err != nil {
				return err
			}
			p.To = args[1]
			return a.trace(c.Context(), p, file)
		},
	}
	f := c.Flags()
	f.Uint16Var(&tcp, "tcp", 0, "a TCP SYN to this port, instead of an ICMP echo request")
	f.Uint16Var(&udp, "udp", 0, "a UDP datagram to this port")
	f.IntVarP(&p.Size, "size", "s", 56, "bytes of payload, as ping counts: an echo's packet has 28 more")
	f.BoolVar(&p.DF, "df", false, "forbid fragmentation")
	f.StringVarP(&file, "write", "w", "", "a pcapng file of all steps, with a comment for each")
	f.DurationVarP(&p.Wait, "timeout", "W", trace.DefaultWait, "how long an answer may take, each of two tries")
	return c
}

func (a *app) trace(ctx context.Context, p trace.Probe, file string) error {
	cl, err := a.open("")
	if err != nil {
		return err
	}
	var out *os.File
	if file != "" {
		if out, err = os.Create(file); err != nil {
			return &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("-w: %w", err), Cure: "give a file that can be written"}
		}
		defer out.Close()
	}
	t, err := trace.Run(ctx, cl, p)
	if err != nil {
		return err
	}
	if out != nil {
		if err := errors.Join(t.WriteCapture(out), out.Close()); err != nil {
			return err
		}
	}
	if a.output == "mermaid" {
		err = t.Mermaid(a.stdout)
	} else if done, e := a.machineReadable(t); done {
		err = e
	} else {
		err = t.Print(a.stdout)
	}
	if err != nil {
		return err
	}
	if !t.Delivered {
		return exitStatus(1)
	}
	return nil
}
