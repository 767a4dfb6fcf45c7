package mirror

import "keelson/internal/lineage"

// Whole reports whether the server has ever held a whole copy: one that follows some history, or is a member of the in-sync
// set that it knows (of a volume that was never written to there is no history yet).
func Whole(node string, h lineage.History, r lineage.Record) bool { return len(h) > 0 || r.Has(node) }

// NotPromotable says why the server's copy cannot be made the source, not even by force; "" if it can. In the middle of a
// resync it can, if the undo log has the way back (rule 11).
func NotPromotable(node string, i PeerInfo) string {
	switch {
	case !i.Known:
		return node + " has not said what its copy holds"
	case i.Failed:
		return "the disk of " + node + " failed"
	case i.Consistent == "no" && i.GaveUp != "":
		return node + " is in the middle of a resync that cannot be undone: " + i.GaveUp
	case i.Consistent == "no":
		return node + " is in the middle of a resync that cannot be undone"
	case !Whole(node, i.History, i.Record):
		return node + " has never held a whole copy of the volume"
	}
	return ""
}
