package policy

import (
	"pgregory.net/rapid"

	"labctl/lab"
)

// RandomPolicies are those of a seed: always the same.
func RandomPolicies(seed int) lab.Policies {
	return rapid.Custom(randomPolicies).Example(seed)
}
