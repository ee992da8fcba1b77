package lab

import (
	"fmt"
	"net/netip"
	"slices"
)

// outside is the destination of a default route.
var outside = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// planRouters makes the routers with their routes.
func (b *planner) planRouters() []RouterPlan {
	var plans []RouterPlan
	for _, r := range b.routers {
		p := RouterPlan{Name: r.Name, Netns: b.netns(r.Name)}
		for i, segment := range r.Segments {
			p.NICs = append(p.NICs, b.nic(fmt.Sprintf("eth%d", i), r.Name, segment))
		}
		p.Routes = b.routesOf(r)
		p.Speaker = b.routerSpeaker(r)
		plans = append(plans, p)
	}
	return plans
}

// defaultRoute leads hosts of a segment to its first router.
func (b *planner) defaultRoute(segment string) []RoutePlan {
	routers := b.routersOf(segment)
	if len(routers) == 0 {
		return nil
	}
	return []RoutePlan{{Dst: outside, Via: b.addrs[segment+"/"+routers[0]], Dev: "eth0"}}
}

func (b *planner) segmentsOf(router string) []string {
	for _, r := range b.routers {
		if r.Name == router {
			return r.Segments
		}
	}
	return nil
}

// hop is the first step of a way: through dev to via.
type hop struct {
	via netip.Addr
	dev string
}

// routesOf are a router's routes to the segments behind other routers, the way
// with the fewest routers each (breadth first, in the file's order), and the
// default route when there is an internet.
func (b *planner) routesOf(r RouterSpec) []RoutePlan {
	first := map[string]hop{}              // segment -> way; the zero hop for its own
	byRouter := map[string]hop{r.Name: {}} // router -> way
	var queue []string
	for _, s := range r.Segments {
		first[s] = hop{}
		queue = append(queue, s)
	}
	for len(queue) > 0 {
		segment := queue[0]
		queue = queue[1:]
		for _, next := range b.routersOf(segment) {
			if _, seen := byRouter[next]; seen {
				continue
			}
			way := first[segment]
			if way == (hop{}) {
				way = hop{b.addrs[segment+"/"+next], fmt.Sprintf("eth%d", slices.Index(r.Segments, segment))}
			}
			byRouter[next] = way
			for _, s := range b.segmentsOf(next) {
				if _, seen := first[s]; !seen {
					first[s] = way
					queue = append(queue, s)
				}
			}
		}
	}
	var routes []RoutePlan
	for _, s := range b.Segments {
		if way, ok := first[s.Name]; ok && way != (hop{}) {
			routes = append(routes, RoutePlan{Dst: s.Subnet, Via: way.via, Dev: way.dev})
		}
	}
	switch way, ok := byRouter[b.layout.internet]; {
	case b.Internet == nil || !ok:
	case b.layout.internet == r.Name:
		routes = append(routes, RoutePlan{Dst: outside, Via: host(b.Internet.Subnet, 1), Dev: "internet"})
	default:
		routes = append(routes, RoutePlan{Dst: outside, Via: way.via, Dev: way.dev})
	}
	return routes
}
