-- What a payment and a booking need besides a lock: the database itself allows them once. docs/locks.md says why.

-- A payment is recorded once, whoever tries again. Insert and COMMIT before the payment service is called, and give the
-- service the same key. No row comes back: the payment is known already, so look at its state and do not pay.
CREATE TABLE payment_intents (
    idempotency_key text PRIMARY KEY,
    lease_id bigint NOT NULL,
    period date NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    state text NOT NULL DEFAULT 'started' CHECK (state IN ('started', 'paid', 'failed')),
    fence bigint NOT NULL DEFAULT 0,
    UNIQUE (lease_id, period)
);

-- Only the newest holder of the lock changes the row: no row changed means that somebody newer was here.
CREATE FUNCTION settle_payment(wanted text, new_state text, new_fence bigint) RETURNS boolean LANGUAGE sql AS $$
    WITH changed AS (
        UPDATE payment_intents SET state = new_state, fence = new_fence
        WHERE idempotency_key = wanted AND fence < new_fence RETURNING 1
    )
    SELECT EXISTS (SELECT FROM changed)
$$;

-- A visit is booked once: no two visits of one property overlap, cancelled ones aside.
CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE TABLE visit_bookings (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    property_id bigint NOT NULL,
    during tstzrange NOT NULL,
    state text NOT NULL DEFAULT 'booked' CHECK (state IN ('booked', 'cancelled')),
    EXCLUDE USING gist (property_id WITH =, during WITH &&) WHERE (state <> 'cancelled')
);

-- The same where slots have names.
CREATE TABLE slot_bookings (
    property_id bigint NOT NULL,
    slot text NOT NULL,
    PRIMARY KEY (property_id, slot)
);
