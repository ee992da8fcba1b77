package bgp

import (
	"fmt"
	"strings"
	"time"
)

// Cause is why a session is not established.
type Cause string

// The causes that can be told apart.
const (
	Refused     Cause = "refused"      // nobody listens on TCP 179 there
	Filtered    Cause = "filtered"     // the SYN is not answered
	Unreachable Cause = "unreachable"  // there is no way to the address
	WrongAS     Cause = "wrong-as"     // the other's AS is not the one expected
	WrongSource Cause = "wrong-source" // the other does not know our address
	Silent      Cause = "silent"       // the hold time, or BFD's, ran out
	Ended       Cause = "ended"        // the other speaker closed the session
	Waiting     Cause = "waiting"      // we are passive, and nobody came
	Other       Cause = "other"
)

// Failure is what went wrong last with a session.
type Failure struct {
	Cause    Cause     `json:"cause"`
	Evidence string    `json:"evidence"` // as the speaker said it
	At       time.Time `json:"at,omitzero"`
}

// Explain says what a failure means for a person, and the cure.
func (s Session) Explain() (what, cure string) {
	if s.State == Established {
		return "", ""
	}
	f := s.Failure
	if f == nil {
		f = &Failure{Cause: Waiting}
	}
	switch f.Cause {
	case Refused:
		return fmt.Sprintf("refused: %s answers, but nobody listens on TCP %d there", s.Addr, Port),
			fmt.Sprintf("see whether %s's speaker runs: labctl status, labctl logs %[1]s", s.Peer)
	case Filtered:
		return fmt.Sprintf("filtered: %s does not answer on TCP %d", s.Addr, Port),
			fmt.Sprintf("look for a rule that drops TCP %d, on both hosts and between them; see whether %s is up", Port, s.Peer)
	case Unreachable:
		return fmt.Sprintf("unreachable: no way to %s", s.Addr), "see whether the peer is up, and ip route get " + s.Addr.String()
	case WrongAS:
		return fmt.Sprintf("wrong AS: AS %d is expected here: %s", s.ASN, f.Evidence), "make both sides name the same AS"
	case WrongSource:
		return fmt.Sprintf("wrong source address: %s closed the connection without a word: %s is not a peer of it", s.Addr, s.Local),
			fmt.Sprintf("let %s expect %s, or connect from the address that it expects", s.Peer, s.Local)
	case Silent:
		return fmt.Sprintf("silent: nothing was heard from %s in the hold time", s.Addr), "see whether " + s.Peer + " is up, and the way to it"
	case Ended:
		return "ended: " + f.Evidence, "see whether " + s.Peer + "'s speaker runs: labctl logs " + s.Peer
	case Waiting:
		return fmt.Sprintf("waiting: %s is to connect and did not yet", s.Peer), "labctl bgp " + s.Peer + " tells what its side sees"
	}
	return f.Evidence, ""
}

// dialFailure reads what a socket said.
func dialFailure(text string) Failure {
	f := Failure{Cause: Other, Evidence: text, At: time.Now()}
	lower := strings.ToLower(text)
	for _, k := range []struct {
		cause Cause
		words []string
	}{
		{Refused, []string{"connection refused"}},
		{Filtered, []string{"i/o timeout", "timed out"}},
		{Unreachable, []string{"no route to host", "network is unreachable", "host is unreachable"}},
	} {
		for _, w := range k.words {
			if strings.Contains(lower, w) {
				f.Cause = k.cause
				return f
			}
		}
	}
	return f
}
