//! The list of what the log can say: for each line that a person may look for, an id that never changes. Sentences may
//! become better ones, the ids stay: whoever is paged, searches or tests does it by id. The level of a line (`level.rs`)
//! comes from here, and so does the runbook (`crieur reference ids`). Pure.

pub use crate::observe::level::Level;

/// What the list says of one id.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Which one.
    pub id: Id,
    /// Its text: `gap.missing`.
    pub name: &'static str,
    /// How loud its line is.
    pub level: Level,
    /// What it means, in one sentence.
    pub means: &'static str,
    /// Whether a key is stale.
    pub stale: &'static str,
    /// What to do or to type.
    pub act: &'static str,
    /// When it ends without anybody.
    pub ends: &'static str,
}

#[macro_use]
mod making;

ids! {
    // The process.
    Starts "run.starts" Info
        means "crieur starts."
        stale "The mark tells, when it is read."
        act "Nothing."
        ends "At once."
    Setting "run.setting" Info
        means "One setting in force, and where it was written."
        stale "No."
        act "Nothing."
        ends "At once."
    SeveralCaches "run.caches" Info
        means "There are several caches: their names, and where the address of each was written."
        stale "No."
        act "Nothing. A cache that you did not expect comes from the environment: unset its variable."
        ends "At once."
    BudgetBound "run.budget" Info
        means "The commands of a cache are bounded by a budget: how old a change may become before its keys are deleted."
        stale "No key is stale for longer than this line says, while the cache answers."
        act "Nothing. For fresher keys raise budget, or write a longer heartbeat."
        ends "At once."
    Stopping "run.stopping" Info
        means "A stop was asked for, and what is in flight is finished."
        stale "No."
        act "Nothing."
        ends "When everything in flight was answered, at the latest after limits.stop_timeout."
    Stopped "run.stopped" Info
        means "crieur has stopped as it was asked to."
        stale "What changes from now on, until crieur starts again."
        act "systemctl start crieur"
        ends "When crieur starts again."
    Failed "run.failed" Error
        means "crieur has stopped because of an error that it cannot mend; the exit code says of which kind."
        stale "What changes from now on, until crieur runs again."
        act "Do what the hint says, then: systemctl start crieur"
        ends "The unit starts crieur again, but not after the exit codes 64, 66, 69, 77 and 78."
    LastStatus "run.last_status" Warn
        means "The last status was not heard by PostgreSQL, so that the next start repeats some deletes."
        stale "No."
        act "Nothing."
        ends "At the next start."
    Dry "run.dry" Info
        means "A dry run follows the changes; nothing is deleted."
        stale "No."
        act "Nothing."
        ends "When the dry run is stopped."
    SystemdUnreached "run.systemd_unreached" Warn
        means "systemd did not take a message of crieur, so that its status line or its watchdog is behind."
        stale "No."
        act "Look at NOTIFY_SOCKET of the unit (Type=notify)."
        ends "With the next message that systemd takes."
    MetricsServed "metrics.served" Info
        means "The metrics are served at this address."
        stale "No."
        act "Nothing."
        ends "At once."
    ControlServed "control.served" Info
        means "Commands are answered at the control socket at this path."
        stale "No."
        act "Nothing."
        ends "At once."
    ControlAsked "control.asked" Info
        means "Somebody asked the daemon at the control socket: the user, the process, and what was asked."
        stale "No."
        act "Nothing."
        ends "At once."
    ControlRefused "control.refused" Warn
        means "A process of a user who may not ask the daemon connected to the control socket."
        stale "No."
        act "If that user is to ask: usermod -aG crieur USER. If not, find the process by its pid."
        ends "At once; said once a minute for each user."
    // The rules and settings, while the daemon runs.
    ReloadSame "reload.same" Info
        means "SIGHUP: the configuration was read again, and its rules, caches and sinks are those in force."
        stale "No."
        act "Nothing."
        ends "At once."
    ReloadTaken "reload.taken" Info
        means "SIGHUP: other rules, caches or sinks were read, and the stream begins anew with them."
        stale "Keys of rules and in caches that are new, until their sweep has ended."
        act "Nothing."
        ends "With the sweep of the keys of new rules."
    ReloadWaits "reload.waits_for_restart" Warn
        means "SIGHUP: settings changed that only a start reads."
        stale "No."
        act "systemctl restart crieur"
        ends "At the next start."
    ReloadRefused "reload.refused" Error
        means "SIGHUP: the configuration is wrong, or two of its caches are one; the rules, caches and sinks in force stay."
        stale "Keys that only the new rules would delete."
        act "Correct the file, then: systemctl reload crieur"
        ends "Never."
    // The verifier.
    VerifyStale "verify.stale" Warn
        means "A cached value says otherwise than the database, and all deletes of that time are done: the key is stale."
        stale "The key of this line, and maybe others of its family: crieur verify names them all."
        act "crieur explain --table TABLE --op update … shows whether a rule deletes the key; then: crieur verify"
        ends "When the key is deleted or expires: verify.mended."
    VerifyMended "verify.mended" Info
        means "A key that was found stale is gone, or says what the database says."
        stale "No."
        act "Nothing."
        ends "At once."
    VerifyWaits "verify.waits" Warn
        means "Cached values are not verified: a server does not answer the verifier, or PostgreSQL refuses the sql of a [[verify]]."
        stale "No: deletes go on."
        act "Do what the line says; crieur check tries the sql of each [[verify]]."
        ends "When both servers answer, and take what they are asked: verify.resumed."
    VerifyResumed "verify.resumed" Info
        means "Cached values are verified again."
        stale "No."
        act "Nothing."
        ends "At once."
    // PostgreSQL: the stream.
    StreamStarted "stream.started" Info
        means "Logical replication runs."
        stale "No."
        act "Nothing."
        ends "At once."
    OutboxStarted "outbox.started" Info
        means "The outbox is read."
        stale "No."
        act "Nothing."
        ends "At once."
    StreamInterrupted "stream.interrupted" Lasting
        means "Changes are not read from PostgreSQL; crieur connects again and again."
        stale "What changes meanwhile, until the stream goes on."
        act "Do what the hint says; else: crieur check"
        ends "When PostgreSQL can be reached and lets crieur in."
    StreamResumed "stream.resumed" Info
        means "Changes are read again after an interruption, from the confirmed position on."
        stale "What changed meanwhile, until it is deleted in a moment."
        act "Nothing."
        ends "At once."
    StandingBy "stream.standing_by" Info
        means "Another session has the slot or the outbox; this daemon takes over when that session ends."
        stale "No: the other daemon deletes."
        act "Nothing; if there is no other daemon, see pg_stat_activity for the process id."
        ends "When the slot is free."
    HeldBack "stream.held_back" Lasting
        means "The server's WAL goes on, and the server sends nothing of it."
        stale "What changes meanwhile."
        act "Start the standby that synchronized_standby_slots names, or take its slot out of that setting; `crieur check` names it."
        ends "When the standby has caught up."
    Flows "stream.flows" Info
        means "The server no longer holds the stream back."
        stale "What changed meanwhile, until it is deleted in a moment."
        act "Nothing."
        ends "At once."
    OtherServer "stream.other_server" Warn
        means "Ordinary sessions reach another server than the stream does, so that the stream connects anew."
        stale "Perhaps, until the sweep behind the new connection has ended."
        act "When the line comes again: give all hosts of the cluster in postgres.url, and no balancer that spreads sessions."
        ends "With the new connection."
    StandbyBehind "standby.behind" Warn
        means "The standby that crieur reads from has not replayed what it had replayed before, and nothing is deleted until it has."
        stale "What readers of that standby store meanwhile, until the sweep behind the replay."
        act "See pg_is_wal_replay_paused(), recovery_min_apply_delay and pg_stat_wal_receiver on the standby."
        ends "When the standby has replayed it."
    StandbyPromoted "standby.promoted" Info
        means "The standby that crieur reads from is a primary now, and crieur goes on with it."
        stale "No: every key of the rules is swept behind the new connection."
        act "Nothing; where it stays a primary, take standby = true out of [postgres]."
        ends "With the new connection."
    StandbyIsPrimary "standby.is_primary" Warn
        means "postgres.standby is true, and the server is a primary."
        stale "Readers of another standby may cache the old row; readers of this server cannot."
        act "Take standby = true out of [postgres], or put the address of the standby into postgres.url."
        ends "Never; said at each connection."
    PublicationChanged "publication.changed" Info
        means "The published or watched tables are others than before, so that the stream connects anew."
        stale "Perhaps, until the sweep behind the new connection has ended."
        act "Nothing."
        ends "With the new connection."
    Pooler "address.pooler" Warn
        means "postgres.url leads to a pooler, and replication does not work through one."
        stale "No."
        act "Write the direct host and port into postgres.url."
        ends "Never."
    Encoding "stream.encoding" Warn
        means "The server converts this encoding in another way than crieur does, so that the server converts the stream, more slowly."
        stale "No."
        act "Nothing."
        ends "Never."
    ValueUnreadable "row.unreadable" Warn
        means "A row holds a byte that has no form in UTF-8, so that no key is made of that value."
        stale "No: no reader can read that value in UTF-8."
        act "Mend the row."
        ends "When the row is mended; until then once a minute for each table."
    DdlUntold "ddl.untold" Warn
        means "The event trigger could not say what DDL changed, and every key of the rules is swept."
        stale "No."
        act "Find \"crieur does not know\" in the log of PostgreSQL: it names the statement and why the trigger failed."
        ends "When the trigger can do its work; until then once a minute."
    MessageNotUnderstood "message.not_understood" Warn
        means "A logical message under the name of crieur is not one of crieur's, and every key of the rules is swept."
        stale "No."
        act "Find who calls pg_logical_emit_message with the prefix crieur."
        ends "With the sweep."
    NotAllowed "invalidate.not_allowed" Error
        means "crieur.invalidate named keys that no cache's invalidate allows, and these keys stay."
        stale "The keys that were named."
        act "Allow them with invalidate where the cache is configured, or correct the call."
        ends "Never; said once a minute while such calls come."
    SessionFailing "session.failing" Lasting
        means "An ordinary session fails: no snapshot, no lookup and no look at the catalog can be had."
        stale "What changes meanwhile, until the session works."
        act "Do what the hint says; else: crieur check"
        ends "When PostgreSQL answers."
    SessionWorks "session.works_again" Info
        means "The ordinary session works again."
        stale "No."
        act "Nothing."
        ends "At once."
    CatalogUnreadable "catalog.unreadable" Warn
        means "The catalog cannot be read, so that DDL of any kind sweeps its table."
        stale "No."
        act "Let the role read the system catalogs, and raise postgres.lookup_timeout."
        ends "When the catalog can be read."
    // PostgreSQL: the slot.
    SlotAnew "slot.anew" Warn
        means "The replication slot was missing, lost or invalidated, and is created anew under the same name."
        stale "Perhaps, until every key of the rules is swept, which happens by itself."
        act "Nothing; if the slot was lost, raise max_slot_wal_keep_size."
        ends "With the sweep behind the new slot."
    SlotWaits "slot.waits" Warn
        means "The new replication slot waits for transactions that are open."
        stale "Perhaps, until the slot exists and its sweep has ended."
        act "SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start; and end what is open for long."
        ends "When these transactions end."
    SlotCreated "slot.created" Info
        means "The replication slot exists now."
        stale "Perhaps, until the sweep that follows has ended."
        act "Nothing."
        ends "With the sweep that follows."
    SlotBehind "slot.behind" Warn
        means "The slot holds back more WAL than max_wal_size."
        stale "What crieur has not deleted yet."
        act "Mend what holds crieur up: a cache that is away, a transaction that is open for long."
        ends "When crieur has caught up."
    SlotLostSoon "slot.lost_soon" Warn
        means "At the present rate the slot is lost within 15 minutes."
        stale "What crieur has not deleted yet."
        act "Mend what holds crieur up, or raise max_slot_wal_keep_size."
        ends "When crieur has caught up; a slot that is lost is made anew, and everything is swept."
    SlotEndangered "slot.endangered" Error
        means "The next checkpoint may remove WAL that the slot needs."
        stale "What crieur has not deleted yet."
        act "Mend what holds crieur up, and raise max_slot_wal_keep_size."
        ends "When crieur has caught up; a slot that is lost is made anew, and everything is swept."
    // PostgreSQL: what it tells of.
    PublicationMissing "publication.missing" Error
        means "The publication does not exist, so that no change comes; sweeps every 10 seconds take their place."
        stale "For up to 10 seconds and the length of a sweep."
        act "crieur setup"
        ends "Never."
    PublicationWithholds "publication.withholds" Error
        means "The publication leaves kinds of changes out; sweeps every 10 seconds take their place."
        stale "For up to 10 seconds and the length of a sweep."
        act "The statement in the hint: ALTER PUBLICATION … SET (publish = 'insert, update, delete, truncate');"
        ends "Never."
    PublicationViaRoot "publication.via_root" Error
        means "The publication has publish_via_partition_root, and TRUNCATE of one partition is not told; sweeps take its place."
        stale "After such a TRUNCATE, until its table is swept a moment later."
        act "The statement in the hint: ALTER PUBLICATION … SET (publish_via_partition_root = false);"
        ends "Never."
    TableUnpublished "table.unpublished" Error
        means "A table of the rules is not in the publication; sweeps of its keys every 10 seconds take the place of its changes."
        stale "Keys of that table, for up to 10 seconds and the length of a sweep."
        act "The statement in the hint: ALTER PUBLICATION … ADD TABLE …;"
        ends "Never."
    TableUncovered "table.uncovered" Error
        means "The triggers do not tell all that the rules read of a table; sweeps of its keys take their place."
        stale "Keys of that table, for up to 10 seconds and the length of a sweep."
        act "crieur setup, as the owner of the table"
        ends "Never."
    OutboxRefuses "outbox.refuses" Error
        means "crieur.outbox takes no rows; sweeps of every table take their place."
        stale "For up to 10 seconds and the length of a sweep."
        act "crieur setup, as the owner of schema crieur; then crieur check"
        ends "Never."
    WritesRefused "writes.refused" Error
        means "PostgreSQL refuses updates and deletes of a table, because it is published without a replica identity that fits."
        stale "No: nothing is written."
        act "The statement in the hint, at once: writes of the application fail."
        ends "Never."
    WritesMended "writes.mended" Warn
        means "PostgreSQL refused updates and deletes of a table, and the daemon has mended that."
        stale "No."
        act "Let the migration that makes a partition give it a replica identity, and keep indexes named crieur_identity_*."
        ends "It has ended."
    TableMissing "rules.table_missing" Warn
        means "The rules name a table that does not exist."
        stale "Keys that its changes would delete, if it is another table's name."
        act "Correct the name in the rules; `crieur check` says which rule has it."
        ends "When the table is made; said once."
    ColumnMissing "rules.column_missing" Warn
        means "The rules read a column that does not exist, so that keys with it are deleted as whole families."
        stale "No."
        act "Correct the name in the rules; `crieur check` says which rule has it."
        ends "When the column is made; said once."
    // PostgreSQL: the outbox.
    OutboxWaits "outbox.waits" Warn
        means "The outbox was full, and old transactions are still open: tables that changed meanwhile are swept again at their end."
        stale "Perhaps, until that second sweep has ended."
        act "SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start; and end what is open for long."
        ends "When these transactions end."
    NotCaptured "outbox.not_captured" Warn
        means "A change of a table was not captured with its values, and the table is swept."
        stale "No, when the sweep has ended."
        act "crieur setup"
        ends "With the sweep; said once a minute for each shape of the table."
    RowNotUnderstood "outbox.not_understood" Warn
        means "A row of crieur.outbox is not understood, and every key of the rules is swept."
        stale "No, when the sweep has ended."
        act "Find who writes into crieur.outbox besides crieur's triggers; an older crieur beside a newer one does."
        ends "With the sweep."
    // Lookups and replicas.
    LookupRefused "lookup.refused" Warn
        means "PostgreSQL refuses a lookup, and its keys widen to their family."
        stale "No: more is deleted than would have to be."
        act "crieur check: it tries each lookup and says what mends it"
        ends "When PostgreSQL answers the lookup; said once a minute for each cause."
    LookupNotKept "lookup.not_kept" Warn
        means "A lookup reads a table whose changes are not those of its tables, so that each batch asks it anew."
        stale "No."
        act "crieur check: it compares the tables of each lookup with what its SQL reads"
        ends "Never; said once."
    ReplicaBehind "replica.behind" Warn
        means "A read replica has not replayed what was deleted, and the position waits for it."
        stale "Readers of that replica may cache the old row, until the replica has replayed it and the keys are deleted again."
        act "See pg_stat_wal_receiver and pg_is_wal_replay_paused() on the replica."
        ends "When the replica has caught up."
    ReplicaFailing "replica.failing" Lasting
        means "A read replica does not answer, and the position waits for it."
        stale "Readers of that replica may cache the old row, until the replica has answered and the keys are deleted again."
        act "Do what the hint says, or take the replica out of postgres.replicas and restart crieur."
        ends "When the replica answers."
    ReplicaWorks "replica.works_again" Info
        means "The read replicas answer again."
        stale "No."
        act "Nothing."
        ends "At once."
    // The cache.
    CacheFailing "cache.failing" Lasting
        means "The cache, or a sink, does not answer, or refuses what crieur asks; crieur tries again, and the position waits for it, up to hold_wal_bytes_max."
        stale "What changes meanwhile, until the cache takes the deletes, or the sink its tags."
        act "Start the cache or the site, or do what the hint says; else: crieur check"
        ends "When the command or the request is taken."
    SentinelsSilent "sentinel.silent" Lasting
        means "Fewer than a majority of the Sentinels answer, so nobody can say that another server is the primary."
        stale "No, as long as the primary stays: without a majority the Sentinels cannot begin a failover either."
        act "Start the Sentinels, or correct their addresses; crieur check says which of them answer"
        ends "When a majority answers."
    SentinelsAnswer "sentinel.answers_again" Info
        means "A majority of the Sentinels answers again."
        stale "No."
        act "Nothing."
        ends "At once."
    SentinelTurned "sentinel.turned" Info
        means "A majority of the Sentinels names another primary; what the mark there does not cover is deleted again."
        stale "What the new primary lacks of the last deletes, until they were sent again."
        act "Nothing."
        ends "With the next mark."
    CacheReleased "cache.released" Warn
        means "The cache, or a sink, held back more than it may, or half of the slot's room is used, and the position goes on without it; its mark tells what it lacks."
        stale "What changes meanwhile, until the cache takes the deletes, or the sink its tags."
        act "Start the cache or the site, or see why it does not answer."
        ends "When it answers again and is up to date: cache.holds_again."
    CacheHolds "cache.holds_again" Info
        means "A cache or a sink that was left behind is up to date, and the position waits for it again."
        stale "No."
        act "Nothing."
        ends "At once."
    CacheWorks "cache.works_again" Info
        means "The cache takes the command, or the sink the request, again."
        stale "What waited, until it is deleted in a moment."
        act "Nothing."
        ends "At once."
    RenewalFailing "cache.renewal_failing" Warn
        means "A new connection to the cache fails though the present one works; the present one goes on."
        stale "No."
        act "Look at the cache's maxclients, its password and its TLS files."
        ends "When a new connection is made."
    TagUnfit "sink.tag_unfit" Warn
        means "The sink cannot take a tag that a row's values make: the tag is too long, or holds a character that the service does not allow; the coarse tag of its rule is purged instead."
        stale "No. More pages than needed are made anew."
        act "Let the rule make shorter or plainer tags ({slug|md5}), and the pages carry the same; the hint says what the service takes."
        ends "When no row has such a value."
    SinkRefused "sink.refused" Warn
        means "The sink refuses some tags for good; their coarse tags were purged instead."
        stale "No. More pages than needed are made anew."
        act "Look at the log of the site or the service, which says why."
        ends "With this request; other tags do not wait."
    SinkGivenUp "sink.refused_coarse" Error
        means "The sink refuses a coarse tag for good (HTTP 400, 405, 410, 413, 415, 422): the tag is given up, and neither the position nor a cache nor another sink waits for it."
        stale "Yes: the pages that carry the tag, until the sink takes it. crieur sends it again after minutes, and at each start."
        act "Do what the hint says: mend the site, or correct url of the sink. The tag goes again by itself."
        ends "When the sink takes every coarse tag that it refused: cache.works_again. Said once for each tag."
    WarmElsewhere "warm.elsewhere" Warn
        means "A page that was to be fetched again answers with another address (a redirect), which crieur does not follow."
        stale "No. The next visitor of the page pays for the refill."
        act "Write the address that answers itself into warm of the rule or the sink; then: systemctl reload crieur"
        ends "When no such page is asked for; said once a minute."
    WarmFailed "warm.failed" Warn
        means "A page that was to be fetched again did not come: the site answers with an error, not at all, or wants a pause."
        stale "No. The next visitor of the page pays for the refill."
        act "Open such a page, and look at the log of the site. A row that was deleted has no page: that is HTTP 404."
        ends "When the pages come; said once a minute."
    WarmDropped "warm.dropped" Warn
        means "Pages are not fetched again: more of them changed than may wait, their addresses cannot be told, or crieur let them go (memory, a reload, billed commands)."
        stale "No. The next visitors of these pages pay for the refill."
        act "Nothing. Raise limits.warm_rate if the site bears more."
        ends "With these pages; said once a minute."
    ClusterTookOver "cluster.took_over" Info
        means "A replica took the place of its primary in a cluster; its mark is compared, and what it lacks is deleted again."
        stale "What the replica lacks, for a moment."
        act "Nothing."
        ends "When the mark was compared."
    ClusterSlotsCame "cluster.slots_came" Info
        means "Slots came to a node of a cluster. Its keys are swept, because a migration that broke may have left copies there."
        stale "Such copies, until the sweep is over."
        act "Nothing."
        ends "With the sweep."
    KeyTooLong "cache.key_too_long" Warn
        means "The cache does not read a key of this length, and the key is left out."
        stale "No, if proto-max-bulk-len and client-query-buffer-limit are below it: no client can have stored such a key."
        act "Nothing, or raise proto-max-bulk-len and client-query-buffer-limit."
        ends "With the key."
    MarkFailing "mark.failing" Lasting
        means "The cache does not take the mark; deletes go on, and the position waits for it, up to hold_wal_bytes_max."
        stale "No."
        act "Do what the hint says; the log of the cache may tell why it refuses the mark."
        ends "When the cache takes the mark."
    MarkFull "mark.full" Lasting
        means "The cache is full and evicts nothing, so that the mark cannot be written."
        stale "No; without a mark the next start sweeps every key of the rules."
        act "Raise maxmemory of the cache, or give it a maxmemory-policy that evicts keys."
        ends "When the cache has room."
    MarkWorks "mark.works_again" Info
        means "The cache takes the mark again."
        stale "No."
        act "Nothing."
        ends "At once."
    RepairSlowed "repair.slowed" Warn
        means "The cache becomes another one again and again, and the next repair waits."
        stale "Perhaps, until the repair that waits has ended."
        act "The url of this cache must lead to one primary at each connection, and no other daemon may use this postgres.slot on this cache. While slots of a cluster move, nothing is to be done. Then: crieur check"
        ends "When the cache stays the same."
    TlsReread "tls.reread" Info
        means "The files of TLS have changed and were read again."
        stale "No."
        act "Nothing."
        ends "At once."
    TlsUnreadable "tls.unreadable" Warn
        means "A changed file of TLS cannot be used, and what was read before stays in force."
        stale "No."
        act "Mend the file."
        ends "At the next connection behind that."
    // Sweeps and gaps.
    SweepBegan "sweep.began" Info
        means "A sweep of whole tables began, for this cause."
        stale "Keys of these tables, until the sweep has ended."
        act "Nothing."
        ends "With sweep.ended."
    SweepEnded "sweep.ended" Info
        means "The sweep has ended."
        stale "No."
        act "Nothing."
        ends "It has ended."
    GapMissing "gap.missing" Info
        means "The cache holds no mark: it is new, was flushed, or evicted the mark; everything that the rules own is swept."
        stale "Perhaps, until the sweep has ended."
        act "Nothing; if it comes again, see which policy of eviction the cache has."
        ends "With the sweep."
    GapUnreadable "gap.unreadable" Info
        means "The mark in the cache cannot be read: somebody else wrote under its name; everything that the rules own is swept."
        stale "Perhaps, until the sweep has ended."
        act "Find who writes keys under crieur:mark:*."
        ends "With the sweep."
    GapOtherServer "gap.other_server" Info
        means "The mark in the cache is of another server or timeline: a failover or a restored server; everything that the rules own is swept."
        stale "Perhaps, until the sweep has ended."
        act "Nothing."
        ends "With the sweep."
    GapOtherDatabase "gap.other_database" Info
        means "The mark in the cache does not name this database; everything that the rules own is swept."
        stale "Perhaps, until the sweep has ended."
        act "If two daemons share the cache, give each its own postgres.slot."
        ends "With the sweep."
    GapBehind "gap.behind" Info
        means "The mark in the cache is older than the confirmed position; everything that the rules own is swept."
        stale "Perhaps, until the sweep has ended."
        act "Nothing."
        ends "With the sweep."
    GapWentBack "gap.went_back" Info
        means "The cache went back in time: a failover, a restored snapshot, a flush, or slots that came to a node of a cluster; everything that the rules own is swept, of a cluster on that node alone."
        stale "Perhaps, until the sweep has ended."
        act "Nothing."
        ends "With the sweep."
    GapOtherRules "gap.other_rules" Info
        means "The rules are others than those of the mark; the keys of rules that are new are swept."
        stale "Keys of new rules, until the sweep has ended."
        act "Nothing."
        ends "With the sweep."
    GapRestarted "gap.restarted" Info
        means "PostgreSQL started again after a crash since the mark was written; everything that the rules own is swept."
        stale "Perhaps, until the sweep has ended."
        act "Nothing."
        ends "With the sweep."
    GapOtherPublication "gap.other_publication" Info
        means "What is published or watched changed since the mark was written; everything that the rules own is swept."
        stale "Perhaps, until the sweep has ended."
        act "Nothing."
        ends "With the sweep."
    GapOtherTables "gap.other_tables" Info
        means "Tables were altered since the mark was written; their keys are swept."
        stale "Keys of these tables, until the sweep has ended."
        act "Nothing."
        ends "With the sweep."
    GapNewSlot "gap.new_slot" Info
        means "The slot is a new one, and what changed before it is not known; everything that the rules own is swept."
        stale "Perhaps, until the sweep has ended."
        act "Nothing."
        ends "With the sweep."
    GapReplayed "gap.replayed" Info
        means "The cache may lack what was deleted since its mark, and these keys are deleted again."
        stale "These keys, for a moment."
        act "Nothing."
        ends "When the keys are deleted."
    GapUnswept "gap.unswept" Warn
        means "The cache may hold stale keys and is not swept, because its on_gap is \"warn\"."
        stale "Perhaps, until the keys expire."
        act "Delete the keys yourself. Or set on_gap = \"sweep\" for this cache, then: systemctl reload crieur; then delete the key `crieur:mark:<slot>` of the cache, and every key of the rules is swept."
        ends "When the keys expire."
    GapUnproven "gap.unproven" Info
        means "A sink keeps no mark, so that nothing proves what it purged before this start: the coarse tag of each family is purged once."
        stale "Perhaps a page, until this purge and its echoes have ended."
        act "Nothing."
        ends "With the purge."
    GapIntruder "gap.intruder" Warn
        means "Somebody wrote a mark of another server or database under the name of this slot."
        stale "Perhaps, until the sweep has ended."
        act "If a crieur of another database uses this cache, give it another postgres.slot."
        ends "With the sweep, if nobody writes there again."
    PublishRefused "publish.refused" Warn
        means "The cache does not let crieur publish what was deleted, and readers keep nothing in their memory."
        stale "No: readers with a memory tier ask the cache."
        act "Give the user of the cache +publish and the channel (ACL SETUSER), or take publish out of this cache."
        ends "When the cache takes the messages; said once a minute."
    GapElders "gap.open_transactions" Info
        means "Transactions are open that the stream may not have, and the sweep is repeated when they have ended."
        stale "Perhaps, until the second sweep has ended."
        act "Nothing."
        ends "When these transactions have ended."
    GapWaits "gap.waits" Warn
        means "Transactions from before the gap are still open, and the mark of the cache waits until they end; deletes go on."
        stale "Perhaps, until the second sweep has ended."
        act "SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start; SELECT * FROM pg_prepared_xacts; and end what is open for long."
        ends "When these transactions end."
}

impl Id {
    /// What the list says of it.
    pub fn entry(self) -> &'static Entry {
        &LIST[self as usize]
    }
}

#[cfg(test)]
mod tests;
