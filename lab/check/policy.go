package check

import (
	"context"
	"fmt"
	"strings"

	"labctl/lab"
	"labctl/lab/policy"
)

// told bounds the flows that a failure names.
const told = 5

// policy holds what passes between containers against what the policies let
// through, and a single flow against what the check expects as well.
func (r *Runner) policy(ctx context.Context, c lab.PolicyCheck) (string, error) {
	prober := policy.NewProber(r.client, policy.DefaultTimes)
	if c.All {
		expected := "every flow is as the policies say"
		m, err := prober.Run(ctx, nil)
		if err != nil {
			return expected, err
		}
		var found []string
		for _, f := range m.Different() {
			if found = append(found, f.String()); len(found) == told {
				break
			}
		}
		if m.Differences > 0 {
			return expected, &failure{expected, fmt.Sprintf("%d of %d are not: %s", m.Differences, len(m.Flows), strings.Join(found, "; "))}
		}
		return fmt.Sprintf("%s; %d looked at", expected, len(m.Flows)), nil
	}
	expected := "an answer"
	if c.Expect == lab.ExpectFail {
		expected = "no answer"
	}
	port, err := policy.ParsePort(c.Port)
	if err != nil {
		return expected, err
	}
	f, err := prober.One(ctx, c.From, c.To, port)
	if err != nil {
		return expected, err
	}
	if f.Actual != (c.Expect != lab.ExpectFail) || f.Differs() {
		return expected, &failure{expected, f.String()}
	}
	return expected + "; " + f.Why, nil
}
