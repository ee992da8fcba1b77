package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
)

// bgpList is bgp -o json.
type bgpList struct {
	SchemaVersion int           `json:"schemaVersion"`
	Speakers      []lab.Speaker `json:"speakers"`
}

func (a *app) bgpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "bgp [NODE]",
		Short: "BGP sessions, and the routes that they told",
		Long: `Print the sessions of all BGP speakers, nodes and routers, and why those that are
not established are not. With a node or router also the routes that it received,
which of them it chose, why one is not in the kernel, and what it told to whom.
The exit status is 1 when a session is not established.`,
		Example: `  labctl bgp
  labctl bgp node1
  labctl bgp -o json`,
		Args:              arguments(0, 1, "one node or router at most"),
		ValidArgsFunction: upTo(1, a.completeNodes),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := a.open("")
			if err != nil {
				return err
			}
			st, err := cl.Status(c.Context())
			if err != nil {
				return err
			}
			all := st.Speakers()
			if len(all) == 0 {
				return &lab.Failure{Kind: lab.Usage, Err: errors.New("bgp: no speaker in this lab"), Cure: "labctl up calico-bgp has some"}
			}
			chosen := all
			if len(args) == 1 {
				i := slices.IndexFunc(all, func(s lab.Speaker) bool { return s.Name == args[0] })
				if i < 0 {
					var names []string
					for _, s := range all {
						names = append(names, s.Name)
					}
					return usage(fmt.Errorf("%s: no BGP speaker in lab %s", args[0], st.Name), "there are "+strings.Join(names, ", "))
				}
				chosen = all[i : i+1]
			}
			if err := a.printBGP(chosen, all, len(args) == 1); err != nil {
				return err
			}
			for _, s := range chosen {
				if s.Established() < len(s.Sessions) {
					return exitStatus(1)
				}
			}
			return nil
		},
	}
}

func (a *app) printBGP(chosen, all []lab.Speaker, detail bool) error {
	if done, err := a.machineReadable(bgpList{1, chosen}); done {
		return err
	}
	var rows [][]string
	var down []string
	for _, s := range chosen {
		for _, p := range s.Sessions {
			up := "-"
			if p.State == lab.Established {
				up = time.Since(p.Since).Round(time.Second).String()
			} else {
				down = append(down, fmt.Sprintf("%s - %s: %s", s.Name, p.Peer, lab.WhyDown(s, p, all)))
			}
			kind := ""
			if p.Client {
				kind = "client"
			}
			rows = append(rows, []string{s.Name, s.Speaker, strconv.FormatUint(uint64(s.ASN), 10), p.Peer, p.Addr.String(), strconv.FormatUint(uint64(p.ASN), 10),
				string(p.State), up, strconv.Itoa(p.Received), strconv.Itoa(p.Accepted), strconv.Itoa(p.Advertised), dash(kind)})
		}
	}
	header := []string{"NODE", "SPEAKER", "AS", "PEER", "ADDRESS", "PEER AS", "STATE", "UP", "RECEIVED", "ACCEPTED", "ADVERTISED", "KIND"}
	if err := table(a.stdout, header, rows); err != nil {
		return err
	}
	for _, d := range down {
		fmt.Fprintln(a.stdout, d)
	}
	for _, s := range chosen {
		for _, x := range s.Strangers {
			fmt.Fprintf(a.stdout, "%s: %s connected, and is no peer of it\n", s.Name, x.Addr)
		}
		if s.Stale > 0 {
			fmt.Fprintf(a.stdout, "%s: %d routes are from before its restart, kept until they are told again\n", s.Name, s.Stale)
		}
		if s.Err != "" {
			fmt.Fprintf(a.stdout, "%s: %s\n", s.Name, s.Err)
		}
		for _, u := range s.Unwritten {
			fmt.Fprintf(a.stdout, "%s: %s from %s is not in the kernel: %s\n", s.Name, u.Prefix, u.Peer, u.Why)
		}
	}
	if !detail {
		return nil
	}
	return a.printRoutes(chosen[0])
}

// printRoutes shows what came in by each session, and what went out.
func (a *app) printRoutes(s lab.Speaker) error {
	var in, out [][]string
	for _, p := range s.Sessions {
		for _, r := range p.In {
			in = append(in, []string{r.Prefix.String(), address4(r), p.Peer, path(r), verdict(s, r)})
		}
		for _, r := range p.Out {
			out = append(out, []string{r.Prefix.String(), address4(r), p.Peer, path(r), "told"})
		}
		for _, r := range p.Withheld {
			out = append(out, []string{r.Prefix.String(), address4(r), p.Peer, path(r), "withheld: " + r.Rejected})
		}
	}
	fmt.Fprintln(a.stdout)
	if err := table(a.stdout, []string{"RECEIVED", "NEXT HOP", "FROM", "AS PATH", "VERDICT"}, in); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	return table(a.stdout, []string{"ADVERTISED", "NEXT HOP", "TO", "AS PATH", "VERDICT"}, out)
}

func address4(r lab.Route) string {
	if !r.NextHop.IsValid() {
		return "-"
	}
	return r.NextHop.String()
}

// path is the AS path, and who reflected the route.
func path(r lab.Route) string {
	var words []string
	for _, as := range r.Path {
		words = append(words, strconv.FormatUint(uint64(as), 10))
	}
	if r.Originator.IsValid() {
		words = append(words, fmt.Sprintf("(of %s, reflected)", r.Originator))
	}
	return dash(strings.Join(words, " "))
}

// verdict is what became of a received route.
func verdict(s lab.Speaker, r lab.Route) string {
	for _, u := range s.Unwritten {
		if u.Prefix == r.Prefix && r.Best {
			return "not in the kernel: " + u.Why
		}
	}
	switch {
	case r.Rejected != "":
		return "refused: " + r.Rejected
	case r.Best && r.Stale:
		return "in the kernel, kept over a restart of " + r.Peer
	case r.Best:
		return "in the kernel"
	}
	return "another is better"
}
