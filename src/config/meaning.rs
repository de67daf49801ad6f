//! What each configuration key does, in sentences: the text of `docs/operate/configuration.md` and `cache-keys.md`. Pure.

/// Key and text, in the order of [`super::reference::reference`].
pub const MEANINGS: &[(&str, &str)] = &[
    (
        "postgres.url",
        "The address of the PostgreSQL server: a libpq URL or a key/value string, with `sslmode`, `sslrootcert` and \
         several hosts. Replication needs the direct host; in outbox mode any pooler will do.",
    ),
    (
        "postgres.mode",
        "How crieur reads changes. `replication` reads them from the WAL. `outbox` reads them from a table that \
         triggers fill, over any ordinary connection ([outbox](../guide/outbox.md)).",
    ),
    (
        "postgres.slot",
        "The name of the replication slot. In outbox mode it is only the name under which crieur keeps its position. Of \
         several daemons with one name, one works and the others stand by. A new name starts from now, so a new name \
         counts as a gap.",
    ),
    (
        "postgres.publication",
        "The name of the publication that holds the tables of the rules. `crieur setup` makes the publication.",
    ),
    (
        "postgres.replicas",
        "Connection strings of the standbys that your readers read from. crieur deletes a key when the primary shows \
         the change, and once more when every standby of this list has replayed the commit; until then the position \
         waits. A standby that is down holds back the position and WAL, never the deletes: take that standby out of the \
         list.",
    ),
    (
        "postgres.standby",
        "With `true`, `postgres.url` leads to a standby of PostgreSQL 16 or later, and crieur reads the changes there, \
         behind their replay: a reader of that standby cannot store again the row that crieur just deleted. `crieur setup` \
         has two parts then, one on the primary and one on the standby ([regions](../guide/regions.md)). Without it crieur \
         refuses a standby. An outbox needs writes, so that `mode = \"outbox\"` refuses this key. A standby that is promoted \
         goes on as a primary.",
    ),
    (
        "postgres.connect_timeout",
        "How long one connection attempt may take for each host: TCP, TLS and log-in together.",
    ),
    (
        "postgres.liveness_timeout",
        "When nothing was received for half of this time, crieur asks the server for a reply. At the end of this time \
         crieur drops the connection and makes a new one. A shorter time finds a dead link sooner, and drops slow \
         links.",
    ),
    (
        "postgres.lookup_timeout",
        "How long one statement of the control session may take, a lookup of the rules too. When a lookup takes longer, \
         its keys become a sweep.",
    ),
    (
        "cache.url",
        "The address of the cache: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database number; or \
         `redis+sentinel://host:port,host:port/NAME` and `rediss+sentinel://…` for the primary that Sentinels call NAME; \
         or `redis+cluster://host:port,host:port` and `rediss+cluster://…` for the nodes of a cluster. \
         The parameters `?db=3`, `?ssl=true`, `?username=` and `?password=` mean what they mean to redis-py, go-redis \
         and ioredis. crieur refuses, by its name, a parameter that contradicts another one, a prefix of keys \
         (`keyPrefix`), and a parameter that crieur does not know. The address that Upstash shows under REST API \
         (`https://…upstash.io`) needs `token` beside it; `transport` says whether crieur reaches that database over the \
         Redis protocol or over REST.",
    ),
    (
        "cache.token",
        "The token that belongs to an `https://` address. `UPSTASH_REDIS_REST_URL` and `UPSTASH_REDIS_REST_TOKEN` \
         together make a cache named `upstash` when no cache has that address.",
    ),
    (
        "cache.transport",
        "How crieur reaches a cache with an `https://` address: `tcp` is the Redis protocol at port 6379 of the same host. \
         `rest` is the REST interface itself, for where nothing but HTTPS is open.",
    ),
    (
        "cache.tls_ca",
        "The PEM file of the authority that signed the cache's certificate. Without this key crieur uses the system's \
         authorities. crieur reads the file again at the next connection when the file has changed, so a rotation needs \
         no restart.",
    ),
    (
        "cache.tls_cert",
        "The PEM file of the certificate that crieur shows to a cache that asks for one (Redis: `tls-auth-clients`). \
         crieur reads this file again, too.",
    ),
    ("cache.tls_key", "The PEM file of the private key of `cache.tls_cert`."),
    (
        "cache.sentinel_user",
        "The user at the Sentinels of a `redis+sentinel://` address, where they have users (ACL). The user in the address \
         is that of the cache.",
    ),
    (
        "cache.sentinel_password",
        "The password at the Sentinels (their `requirepass`). The password in the address is that of the cache. The \
         parameters `?sentinel_user=` and `?sentinel_password=` of the address mean the same.",
    ),
    (
        "cache.sentinel_tls",
        "Whether crieur speaks TLS with the Sentinels. `auto`: with `rediss+sentinel://` yes, with `redis+sentinel://` no.",
    ),
    (
        "cache.sentinel_tls_ca",
        "The PEM file of the authority that signed the certificates of the Sentinels, where it is another one than `tls_ca`.",
    ),
    (
        "cache.nodes",
        "Where crieur reaches servers that Sentinels or a cluster name by an address that leads nowhere from here, as in \
         Docker or behind NAT: `nodes = { \"172.17.0.2:6379\" = \"cache.example:6379\" }`. A certificate must name the \
         host on the right.",
    ),
    (
        "cache.required",
        "Whether `/readyz` waits for this cache and names it when it does not answer, whether a start under systemd waits for \
         the cache's first answer, and whether `crieur status --wait` waits for its deletes. `false` suits a cache that may \
         be away while the site works.",
    ),
    (
        "cache.hold_wal_bytes_max",
        "How much WAL may wait in PostgreSQL for this cache while the cache is away. Past this size, or when half of \
         what the slot may keep is used, the position goes on without the cache; when the cache answers again its mark says \
         what it lacks. `0` never waits. With `on_gap = \"warn\"` nothing would be swept, so the position always waits.",
    ),
    (
        "cache.echo",
        "The delays of the repeated deletes, ascending. The last delay bounds how long a plain reader may keep a value \
         before the reader stores the value. `[]` suits readers with leases; with `[]` a plain reader that races with a \
         change may leave a stale value.",
    ),
    (
        "cache.echo_wal_bytes_max",
        "How much WAL waiting echoes may hold back, in bytes; never more than half of `cache.hold_wal_bytes_max` (unless \
         that is 0) or a quarter of what the slot may keep. Past this bound the position moves on without the echoes, \
         and a crash loses those that waited.",
    ),
    ("cache.protect", "Patterns of keys that are never deleted, whatever a rule says."),
    (
        "cache.invalidate",
        "The keys that transactions may name with `crieur.invalidate`, as texts that end in `*`: \
         `[\"properties:search:*\"]`. `cache.protect` wins over this list.",
    ),
    (
        "cache.leases",
        "`companion` deletes the key `lease:{K}` with every key K, for readers that keep their lease there \
         ([readers](../guide/readers.md)). `none` does not. The lease of a protected key stays as well; `lease:*` in \
         `cache.protect` keeps no other lease.",
    ),
    (
        "cache.on_gap",
        "What crieur does when the mark shows that the cache may have missed changes: at the first start, after a new \
         slot, on another server. `sweep` deletes every key of the rules; when only the rules changed, the keys of the \
         changed rules. `warn` says so once, and stale values may stay until their TTL ends.",
    ),
    (
        "cache.heartbeat",
        "How often crieur looks at the mark and writes the mark when there is nothing to delete. Within this time \
         crieur notices a cache that was restored, flushed or failed over behind a proxy. A reader that finds the \
         mark's `at` much older knows that nobody invalidates. Each beat is one command. Where commands are billed, the \
         default is one minute.",
    ),
    (
        "cache.publish",
        "A channel of pub/sub, for readers that keep values in their own memory. Behind each delete crieur publishes the \
         names of the deleted keys there, whether a key existed or not, and behind each mark a heartbeat; the mark says \
         which message was the last ([readers](../guide/memory.md)). One more command for each flush and for each beat, \
         which a `budget` counts. The user of the cache needs `+publish` and the channel. A cluster refuses this key. \
         Without it nothing is published.",
    ),
    (
        "cache.connection_age_max",
        "How often crieur connects to the cache's address anew. So crieur leaves an old primary that lives on when its \
         name leads to another server. Where commands are billed, the default is five minutes.",
    ),
    (
        "cache.metered",
        "Whether each command is billed. `yes`: no delete ahead of the gate, the mark at most once a second, longer \
         defaults of `cache.heartbeat` and `cache.connection_age_max`. `no`: none of this. `auto`: crieur decides by \
         the host (`.upstash.io`, `.kv.vercel-storage.com`); over REST, and with a budget, commands are billed.",
    ),
    (
        "cache.budget",
        "How many commands the service may bill in a month. On a host of Upstash the default is `\"200k\"`. A greatest \
         age of a change follows from it, which the log and `crieur check` name. A cluster bills no commands: a budget on \
         one is refused.",
    ),
    ("cache.timeout", "Without an answer for this long crieur drops the connection and sends the same keys again."),
    ("sink.kind", "Who takes the tags of the rules: a site that checks a signature, or one of three services."),
    (
        "sink.url",
        "Where the requests go: `https://`, or `http://` on this machine. Without this key crieur uses the address of \
         the service; a webhook needs one.",
    ),
    (
        "sink.secret",
        "What a webhook is signed with: `whsec_` and Base64. Several, parted by spaces, sign each message once each, \
         so that a site can change its secret.",
    ),
    ("sink.token", "The token of Vercel, Cloudflare or Fastly."),
    ("sink.project", "The project at Vercel, by its id or its name."),
    ("sink.team", "The team that the project at Vercel belongs to, by its id."),
    ("sink.zone", "The zone at Cloudflare, by its id."),
    ("sink.service", "The service at Fastly, by its id."),
    ("sink.soft", "Whether Vercel and Fastly may serve the old page once more while they fetch the new one."),
    (
        "sink.after",
        "The caches that the pages read: tags leave behind their answers. Without this key these are all required \
         caches; `[]` is none.",
    ),
    (
        "sink.echo",
        "The delays of the repeated purges, for a page whose making began before the change and ended behind the \
         purge. The last one must come behind the last echo of the caches in `after`. Without this key a webhook has its \
         first echo within a second, so that a page of Next.js whose making began before COMMIT is right by then.",
    ),
    (
        "sink.echo_wal_bytes_max",
        "How much WAL the waiting echoes may hold back. Past it the position moves on without them.",
    ),
    (
        "sink.hold_wal_bytes_max",
        "How much WAL PostgreSQL keeps for this sink while the sink does not answer; then the position goes on \
         without it. 0 never waits for the sink.",
    ),
    (
        "sink.rate",
        "How many requests may leave in a time: what the plan allows. Without this key 10/s for a webhook, 5/s for \
         Vercel, 5/min for Cloudflare, 20/s for Fastly.",
    ),
    (
        "sink.timeout",
        "How long crieur waits for an answer. Then the connection is dropped, and the same request goes again.",
    ),
    (
        "sink.warm",
        "The address of the pages that the sink keeps, for example `\"https://www.example.sn/annonces/{id}\"`: `warm` of each \
         rule that has keys, tags for this sink, and no `warm` of its own, and whose keys or tags read every column of the \
         address.",
    ),
    ("sink.tls_ca", "The PEM file of the certificate authority; without this key crieur trusts those of the system."),
    (
        "limits.memory_bytes_max",
        "How many bytes the keys that wait may take. Past this bound a set of keys becomes a sweep of its template.",
    ),
    (
        "limits.batch_keys_max",
        "How many keys one pipeline carries. A smaller number lets other clients of the cache in between more often.",
    ),
    (
        "limits.stop_timeout",
        "How long the work in flight may take after SIGTERM. The rest comes again at the next start. Keep \
         `TimeoutStopSec` of the systemd unit above this time.",
    ),
    (
        "limits.warm_rate",
        "How many pages crieur fetches again in a minute, of all sites together (`warm`); never more than two at once. `0` \
         fetches none.",
    ),
    (
        "limits.warm_timeout",
        "How long a page may take from the connection to its last byte. Then crieur gives the page up, and its next visitor \
         pays for the refill.",
    ),
    (
        "admin.listen",
        "The address and port of the page at `/`, and of `/metrics`, `/healthz` and `/readyz`, for example \
         `\"127.0.0.1:9186\"`. Without this key there are no such pages. The pages have no password: keep them on a local \
         address.",
    ),
    (
        "admin.changes",
        "Whether the page shows the last changes with table, operation, rule and keys. Keys may have values of rows in \
         them: `false` keeps them off the page, and out of what `crieur status` prints.",
    ),
    (
        "admin.hosts",
        "Names by which a browser may call the page, for example `[\"crieur.example\"]` behind a proxy. Addresses and \
         `localhost` are always allowed. Any other name is refused, so that no page of somebody else's name can read \
         this one.",
    ),
    (
        "log.level",
        "The least grave lines that the log shows. `debug` adds a line for each step, and lines that name deleted \
         keys, which may have values of rows in them. The variable `CRIEUR_LOG` wins over this key, for one run. The \
         journal keeps the level of each line: `journalctl -u crieur -p warning` shows what is grave.",
    ),
    (
        "log.format",
        "`text` is for people. `json` writes one object for each line: `time`, `level`, `id`, `message`, and each field \
         under its own name.",
    ),
    (
        "control.socket",
        "The unix socket at which `crieur tail`, `crieur sweep` and `crieur status` ask the daemon. Without this key the \
         socket is in the runtime directory that systemd makes (`RUNTIME_DIRECTORY`), `/run/crieur/control.sock`; where \
         there is none, there is no socket. root, the daemon's own user and members of its group may ask.",
    ),
];
