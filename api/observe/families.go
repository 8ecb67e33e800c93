package observe

// Family is one metric: its name, what it says, and its labels. Labels take values from fixed sets: names of methods,
// actions, states and nodes, never what a client sent.
type Family struct {
	Name   string
	Kind   string // counter, gauge or histogram
	Labels []string
	Help   string
}

// Families are all metrics of a node, besides those of the Go runtime (go_*) and the process (process_*). docs/metrics.md
// is made of this list.
func Families() []Family {
	g := func(name, help string, labels ...string) Family { return Family{name, "gauge", labels, help} }
	c := func(name, help string, labels ...string) Family { return Family{name, "counter", labels, help} }
	h := func(name, help string, labels ...string) Family { return Family{name, "histogram", labels, help} }
	return []Family{
		g("hizo_build_info", "1; the version that runs.", "version"),
		g("hizo_ready", "1 where /readyz says yes."),
		g("hizo_not_ready", "1 for each reason why /readyz says no.", "reason"),
		g("hizo_initialised", "1 once this node belongs to a cluster."),
		g("hizo_sealed", "1 while this node holds no keys."),
		g("hizo_sealed_on_purpose", "1 after hizo cluster seal."),

		g("hizo_leader", "1 while this node leads."),
		g("hizo_leader_known", "1 while this node knows who leads."),
		c("hizo_leader_changes_total", "How often this node learned of another leader, or of none."),
		g("hizo_leader_contact_age_seconds", "Since the leader was last heard of; 0 on the leader."),
		g("hizo_raft_term", "Raft's term."),
		g("hizo_raft_last_index", "Last index of this node's log."),
		g("hizo_raft_commit_index", "Last index that this node knows to be committed."),
		g("hizo_applied_index", "Index that this node's state has reached."),
		g("hizo_lag_seconds", "How old the oldest state of the leader is that this node has not reached; 0 where it keeps up."),
		g("hizo_clock_skew_seconds", "The median of the voters' clocks, seen from this one, at the leader's last comparison."),
		g("hizo_cluster_time_seconds", "Cluster time, Unix seconds."),
		g("hizo_members", "Members by what they are: voter, nonvoter, unapproved, quarantined, without_share. One may be several.", "state"),
		g("hizo_share_threshold", "Nodes that it takes to unseal another one; 0: there is no node set."),

		c("hizo_records_total", "Records proposed at this node: committed, refused (nothing was proposed), overloaded (too many waited), unknown (outcome not known).", "outcome"),
		h("hizo_commit_seconds", "From the queue to the answer, of committed records."),
		h("hizo_entry_records", "Records in one entry of the log: how much group commit gathers."),
		h("hizo_entry_bytes", "Bytes of one entry of the log."),
		g("hizo_queue_records", "Records waiting to be proposed."),
		g("hizo_queue_bytes", "Their bytes."),
		h("hizo_log_append_seconds", "Appending to this node's log, with the sync of its disk."),
		g("hizo_log_bytes", "Bytes of log held, about."),
		g("hizo_log_bytes_after_snapshot", "Of these, behind the newest snapshot: what a restart has to read at most."),
		g("hizo_snapshots", "Snapshots held."),
		g("hizo_snapshot_index", "Index of the newest."),
		g("hizo_snapshot_bytes", "Its size."),
		c("hizo_snapshot_failures_total", "Snapshots that could not be taken when they were due."),

		g("hizo_state_disk_bytes", "The state's tables on disk."),
		g("hizo_state_memtable_bytes", "What is not in tables yet."),
		g("hizo_state_cache_bytes", "Decoded objects in memory."),
		c("hizo_state_compactions_total", "Compactions of the state's tables."),

		g("hizo_audit_records", "Records in the audit tree."),
		g("hizo_audit_unsigned_records", "Of these, not under a signed checkpoint yet."),
		g("hizo_checkpoint_records", "Records under the newest checkpoint."),
		g("hizo_checkpoint_age_seconds", "Age of the newest checkpoint, by this node's clock. Nothing is signed while nothing is recorded."),

		c("hizo_calls_total", "Calls of clients by method and gRPC status code.", "method", "code"),
		h("hizo_call_seconds", "Calls of clients that are no streams, by method.", "method"),
		c("hizo_denials_total", "Refused requests by action. Who and what: hizo audit search --decision denied.", "action"),
		c("hizo_logins_total", "Logins by method, admitted or refused.", "method", "outcome"),
		c("hizo_rate_limited_total", "Requests stopped by a rate limit of their principal or address."),
		c("hizo_forged_records_total", "Requests not decided because a stored record was changed outside the cluster. Never 0 by accident."),
		g("hizo_connections", "Open connections of clients."),
		g("hizo_watchers", "Open watches of secrets."),
		g("hizo_audit_tails", "Open tails and exports of the audit log."),

		g("hizo_rotations", "Scheduled rotations by what they are: waiting, due, running, failing, overdue, paused. One may be several.", "state"),
		g("hizo_rotation_overdue_seconds", "How long the longest overdue rotation has been due, or its step has failed."),
		g("hizo_key_rotations_due", "Rotations of the cluster's own keys that have begun and not ended."),
		g("hizo_leases", "Leases: held, revoking (their user is about to be dropped), dead (nobody could drop it: hizo lease dead list).", "state"),

		g("hizo_backup_timestamp_seconds", "When the newest backup that was read back and verified was made, Unix seconds by cluster time; 0: there is none."),
		g("hizo_backup_bytes", "Its size."),
		c("hizo_backup_failures_total", "Backups that this node could not make, or not keep."),

		g("hizo_disk_free_bytes", "Free where data_dir lies, for this process."),
		g("hizo_disk_total_bytes", "Size of that file system."),
		g("hizo_disk_reserve_bytes", "Below so much free the node takes no writes; 0: it does not look."),
		g("hizo_disk_low", "1 while less than the reserve is free."),

		g("hizo_seal_healthy", "1 where the seal (HSM or key file) answered the last check."),
		g("hizo_seal_check_seconds", "How long that took."),
		g("hizo_certificate_expires_timestamp_seconds", "When a certificate for clients ends, Unix seconds: node, renewed at half its time, or ca.", "certificate"),
	}
}
