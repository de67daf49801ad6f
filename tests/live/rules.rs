//! What rules say, against the texts that a real server sends: JSON, timestamps, ignored columns, conditions.

use std::collections::BTreeSet;

use super::scene::{self, RULES, Scene, set};

const SAID: &str = r#"
[conditions]
free = "status = 'disponible' and location.city ilike '%dakar%'"

[ignore]
"public.properties" = ["view_count"]

[[rules]]
table = "public.properties"
when = "@free"
keys = ["r:free:{id}", "r:page:{4,8}:{location.city|lower}"]
companions = [":meta"]

[[rules]]
table = "public.properties"
changed = ["created_at", "score", "location.floor"]
keys = ["r:at:{created_at}", "r:month:{created_at|year}:{created_at|month}", "r:score:{score}", "r:floor:{location.floor or 'none'}"]
"#;

const KEYS: &[&str] = &[
    "r:free:1",
    "r:free:1:meta",
    "r:page:4:grand-dakar",
    "r:page:4:grand-dakar:meta",
    "r:page:8:grand-dakar",
    "r:page:8:grand-dakar:meta",
    "r:page:12:grand-dakar",
    "r:at:2024-03-01T23:30:00.5+00:00",
    "r:month:2024:3",
    "r:score:0.1",
    "r:score:100000000000000000000",
    "r:floor:3",
    "r:floor:none",
    "r:floor:4",
];

/// Settings of a database that would change every text.
const TABLES: &str = "
ALTER TABLE properties ADD status text DEFAULT 'disponible', ADD location jsonb, ADD view_count int DEFAULT 0,
    ADD created_at timestamptz DEFAULT '2024-03-01 23:30:00.5+00', ADD score double precision DEFAULT 0.1;
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Tokyo''', current_database());
    EXECUTE format('ALTER DATABASE %I SET datestyle = ''German''', current_database());
    EXECUTE format('ALTER DATABASE %I SET extra_float_digits = 0', current_database());
END $$;
UPDATE properties SET location = '{\"city\": \"Grand-Dakar\", \"floor\": 3}';
";

#[tokio::test]
async fn rules_mean_the_same_whatever_the_settings_of_the_database() {
    let scene = Scene::start().await;
    scene.run(TABLES).await;
    let config = scene::config(&scene.postgres.url(), &scene.cache.url()).replace(RULES, SAID);
    let daemon = scene.daemon_with(&config).await;
    // The update that filled the column comes first.
    scene.confirmed(&daemon).await;
    let free = ["r:free:1", "r:free:1:meta"];
    let pages = &KEYS[2..6];
    let at = ["r:at:2024-03-01T23:30:00.5+00:00", "r:month:2024:3"];
    let cases: &[(&str, BTreeSet<String>)] = &[
        ("UPDATE properties SET view_count = view_count + 1", set(&[])),
        ("UPDATE properties SET title = 'new' WHERE id = 1", set(&[&free, pages].concat())),
        ("UPDATE properties SET status = 'loué' WHERE id = 1", set(&[&free, pages].concat())),
        ("UPDATE properties SET title = 'newer' WHERE id = 1", set(&[])),
        (
            "UPDATE properties SET score = 1e20 WHERE id = 1",
            set(&[&at[..], &["r:score:0.1", "r:score:100000000000000000000", "r:floor:3"]].concat()),
        ),
        (
            "UPDATE properties SET location = location - 'floor' WHERE id = 1",
            set(&[&at[..], &["r:score:100000000000000000000", "r:floor:3", "r:floor:none"]].concat()),
        ),
    ];
    for (sql, expected) in cases {
        let mut connection = scene.keys();
        for key in KEYS {
            let _: () = redis::cmd("SET").arg(key).arg("v").query(&mut connection).expect("it is writable");
        }
        scene.change(&daemon, sql).await;
        let left: BTreeSet<String> = redis::cmd("KEYS").arg("r:*").query(&mut connection).expect("it answers");
        let gone: BTreeSet<String> = KEYS.iter().map(|key| key.to_string()).filter(|key| !left.contains(key)).collect();
        assert_eq!(gone, *expected, "{sql}\n{}", daemon.log());
    }
}
