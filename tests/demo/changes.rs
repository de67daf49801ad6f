//! Dousell's tables and the changes of its invalidation table: what is done in SQL, and which keys must go.
//!
//! Not a rule: the expectations are written out by hand, so that a wrong rule cannot agree with itself. Each change has
//! ids and cities of its own. Only the key of the public list is shared, and every insert, update and delete of a
//! property must delete it.

/// The part of Dousell's schema that its rules read.
pub const TABLES: &str = "
    CREATE TABLE properties (
        id uuid PRIMARY KEY, owner_id uuid, title text, city text NOT NULL, price numeric(12,2), status text,
        description text);
    CREATE TABLE leases (id uuid PRIMARY KEY, property_id uuid NOT NULL REFERENCES properties (id));
    CREATE TABLE rental_payments (id uuid PRIMARY KEY, lease_id uuid NOT NULL, amount numeric(12,2));
    CREATE TABLE visit_bookings (id uuid PRIMARY KEY, property_id uuid NOT NULL, slot timestamptz);
    INSERT INTO properties (id, owner_id, title, city, price) VALUES
        ('a2000000-0000-4000-8000-000000000000', NULL, 'Villa with a garden', 'Mbour', 95000000),
        ('a3000000-0000-4000-8000-000000000000', NULL, 'Studio, second floor', 'Rufisque', 21000000),
        ('a4000000-0000-4000-8000-000000000000', NULL, 'House by the river', 'Saint-Louis', 43000000),
        ('a5000000-0000-4000-8000-000000000000', 'e5000000-0000-4000-8000-000000000000', 'Flat to let', 'Kaolack', NULL),
        ('a7000000-0000-4000-8000-000000000000', NULL, 'Workshop', 'Ziguinchor', 18000000);
    INSERT INTO leases VALUES ('b5000000-0000-4000-8000-000000000000', 'a5000000-0000-4000-8000-000000000000')";

/// One line of the table: a transaction and its promise.
pub struct Change {
    /// For the reader of the demo.
    pub title: &'static str,
    /// A transaction that is rolled back first. None of its keys is in `goes`.
    pub rolled_back: Option<&'static str>,
    /// The statements that are committed.
    pub committed: &'static str,
    /// Exactly the keys that must go.
    pub goes: &'static [&'static str],
    /// Of the others, which all must stay, those that are worth showing.
    pub near: &'static [&'static str],
}

/// Every change, in order.
pub const CHANGES: &[Change] = &[
    Change {
        title: "a new property in Touba",
        rolled_back: None,
        committed: "INSERT INTO properties (id, title, city, price)
            VALUES ('a1000000-0000-4000-8000-000000000000', 'Two rooms near the station', 'Touba', 32000000)",
        goes: &[
            "properties:all_properties_public",
            "properties:city:Touba",
            "properties:detail:a1000000-0000-4000-8000-000000000000",
        ],
        near: &["properties:city:Mbour"],
    },
    Change {
        title: "a changed price in Mbour",
        rolled_back: None,
        committed: "UPDATE properties SET price = 89000000 WHERE id = 'a2000000-0000-4000-8000-000000000000'",
        goes: &[
            "properties:all_properties_public",
            "properties:city:Mbour",
            "properties:detail:a2000000-0000-4000-8000-000000000000",
        ],
        near: &["properties:city:Touba", "properties:detail:a1000000-0000-4000-8000-000000000000"],
    },
    Change {
        title: "a move from Rufisque to Dakar: the old city and the new one",
        rolled_back: None,
        committed: "UPDATE properties SET city = 'Dakar' WHERE id = 'a3000000-0000-4000-8000-000000000000'",
        goes: &[
            "properties:all_properties_public",
            "properties:city:Dakar",
            "properties:city:Rufisque",
            "properties:detail:a3000000-0000-4000-8000-000000000000",
        ],
        near: &["properties:city:Mbour"],
    },
    Change {
        title: "a deleted property in Saint-Louis",
        rolled_back: None,
        committed: "DELETE FROM properties WHERE id = 'a4000000-0000-4000-8000-000000000000'",
        goes: &[
            "properties:all_properties_public",
            "properties:city:Saint-Louis",
            "properties:detail:a4000000-0000-4000-8000-000000000000",
        ],
        near: &["properties:city:Dakar"],
    },
    Change {
        title: "a payment: its lease, and the owner that a lookup finds behind it",
        rolled_back: None,
        committed: "INSERT INTO rental_payments VALUES ('c5000000-0000-4000-8000-000000000000',
            'b5000000-0000-4000-8000-000000000000', 250000)",
        goes: &[
            "dashboard:e5000000-0000-4000-8000-000000000000",
            "payments:lease:b5000000-0000-4000-8000-000000000000",
        ],
        near: &["properties:all_properties_public", "properties:detail:a2000000-0000-4000-8000-000000000000"],
    },
    Change {
        title: "a booked visit",
        rolled_back: None,
        committed: "INSERT INTO visit_bookings VALUES ('d6000000-0000-4000-8000-000000000000',
            'a6000000-0000-4000-8000-000000000000', '2030-01-07 10:00+00')",
        goes: &["available_slots:a6000000-0000-4000-8000-000000000000"],
        near: &["available_slots:a8000000-0000-4000-8000-000000000000"],
    },
    Change {
        title: "a price in Ziguinchor, rolled back; then a booked visit that must be all that counts",
        rolled_back: Some("UPDATE properties SET price = 1 WHERE id = 'a7000000-0000-4000-8000-000000000000'"),
        committed: "INSERT INTO visit_bookings VALUES ('d8000000-0000-4000-8000-000000000000',
            'a8000000-0000-4000-8000-000000000000', '2030-01-08 10:00+00')",
        goes: &["available_slots:a8000000-0000-4000-8000-000000000000"],
        near: ROLLED_BACK,
    },
];

/// In the cache from beginning to end, and no business of the rules.
pub const STAYS: &[&str] = &[
    "lock:property:a2000000-0000-4000-8000-000000000000",
    "lock:payment:b5000000-0000-4000-8000-000000000000",
    "session:7f3a",
    "rate:login:127.0.0.1",
    "properties_count",
];

/// What the rolled-back change would have deleted, had it been committed.
pub const ROLLED_BACK: &[&str] = &[
    "properties:all_properties_public",
    "properties:city:Ziguinchor",
    "properties:detail:a7000000-0000-4000-8000-000000000000",
];

/// What an earlier life of the cache may have left: one key of each family of the rules.
pub const STALE: &[&str] = &[
    "properties:all_properties_public",
    "properties:city:Tambacounda",
    "properties:detail:a0000000-0000-4000-8000-000000000000",
    "payments:lease:b0000000-0000-4000-8000-000000000000",
    "dashboard:e0000000-0000-4000-8000-000000000000",
    "available_slots:a0000000-0000-4000-8000-000000000000",
];
