package vxlan

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
)

// leaseData is BackendData: {"VNI":1,"VtepMAC":"c6:d2:..."}. Old flannels
// publish VtepMAC alone.
type leaseData struct {
	VNI     *int `json:",omitempty"`
	VtepMAC string
}

// encodeData is what this host publishes.
func encodeData(vni int, mac net.HardwareAddr) (json.RawMessage, error) {
	return json.Marshal(leaseData{&vni, mac.String()})
}

// decodeData reads what a host publishes. The VNI is -1 when it is not said.
func decodeData(data json.RawMessage) (vni int, mac net.HardwareAddr, err error) {
	if len(data) == 0 {
		return 0, nil, errors.New("BackendData: missing, it should have the VTEP's MAC")
	}
	var d leaseData
	if err := json.Unmarshal(data, &d); err != nil {
		return 0, nil, fmt.Errorf("BackendData: %w", err)
	}
	mac, err = net.ParseMAC(d.VtepMAC)
	switch {
	case err != nil || len(mac) != 6:
		return 0, nil, fmt.Errorf("VtepMAC: %q is not a MAC address", d.VtepMAC)
	case mac[0]&1 != 0 || isZero(mac):
		return 0, nil, fmt.Errorf("VtepMAC: %s is not the address of one device", mac)
	}
	if d.VNI == nil {
		return -1, mac, nil
	}
	return *d.VNI, mac, nil
}

func isZero(mac net.HardwareAddr) bool {
	for _, b := range mac {
		if b != 0 {
			return false
		}
	}
	return true
}

// newMAC is a random address, locally administered and of one device (IEEE
// 802: the two low bits of the first byte).
func newMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac) // never fails
	mac[0] = mac[0]&^1 | 2
	return mac
}
