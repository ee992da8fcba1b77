package trace

import (
	"fmt"
	"io"
	"time"

	"labctl/lab/capture"
	"labctl/lab/packet"
)

// WriteCapture writes what was seen as a pcapng file; each packet's comment
// says which hop it is.
func (t *Trace) WriteCapture(w io.Writer) error {
	var interfaces []capture.Interface
	index := map[string]int{}
	for _, s := range t.Steps {
		if _, ok := index[s.Where()]; ok {
			continue
		}
		i := capture.Interface{Endpoint: s.Endpoint, Name: s.Interface, Link: packet.LinkEthernet}
		if s.bare {
			i.Link = packet.LinkRaw
		}
		index[s.Where()] = len(interfaces)
		interfaces = append(interfaces, i)
	}
	pw, err := capture.NewWriter(w, interfaces, "")
	if err != nil {
		return err
	}
	for i, s := range t.Steps {
		d := capture.In
		if s.Direction == Out {
			d = capture.Out
		}
		p := capture.Packet{Time: time.Unix(0, s.at), Interface: index[s.Where()], Direction: d, Data: s.data, Len: s.length, Comment: t.comment(i)}
		if err := pw.Write(p); err != nil {
			return err
		}
	}
	return pw.Flush()
}

// comment is "hop 5 of 24, node1 flannel.1 -> eth0, vxlan vni 1".
func (t *Trace) comment(i int) string {
	s := t.Steps[i]
	text := fmt.Sprintf("hop %d of %d, ", s.Number, len(t.Steps))
	from := -1
	for j := range i {
		if o := t.Steps[j]; o.Way == s.Way && o.Aside == "" {
			from = j
		}
	}
	switch {
	case from < 0:
		text += fmt.Sprintf("%s %s %s", s.Endpoint, s.Interface, s.Direction)
	case t.Steps[from].Endpoint == s.Endpoint:
		text += fmt.Sprintf("%s %s -> %s", s.Endpoint, t.Steps[from].Interface, s.Interface)
	default:
		text += fmt.Sprintf("%s -> %s", t.Steps[from].Where(), s.Where())
	}
	switch f := s.Packet; f.Tunnel {
	case "":
	case "vxlan":
		text += fmt.Sprintf(", vxlan vni %d", f.VNI)
	case "udp":
		text += fmt.Sprintf(", flannel udp %d", f.DstPort)
	default:
		text += ", " + f.Tunnel
	}
	if s.Aside != "" {
		text += ", " + s.Aside
	}
	return text
}
