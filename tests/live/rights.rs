//! Whose code runs with whose rights: nothing that another role put into schema crieur, or into the search path, runs
//! with more rights than that role has.

use super::daemon;
use super::harness::postgres::{self, Postgres, Version};
use super::outbox_sql::{INSTALL, Outbox, ask, refused, run, session};
use super::scene::{Mode, Scene};

const TRIGGERS: &str = include_str!("../../sql/triggers.sql");
const INVALIDATE: &str = include_str!("../../sql/invalidate.sql");

/// Code of the role `app` that tells as whom it ran.
const TRAP: &str = "
    CREATE TABLE public.ran (who text);
    GRANT ALL ON public.ran TO public;
    CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN new; END $$";

const RAN: &str = "SELECT coalesce(string_agg(DISTINCT who, ' ' ORDER BY who), '') FROM public.ran";

/// A migration goes on with names as it wrote them.
#[tokio::test]
async fn the_scripts_leave_the_search_path_of_their_transaction_alone() {
    let server = Postgres::start(postgres::Options::default());
    let client = server.client().await;
    client.batch_execute("CREATE TABLE public.t (id int)").await.expect("valid SQL");
    let scripts = [INSTALL, include_str!("../../sql/invalidate.sql"), include_str!("../../sql/triggers.sql")];
    for script in scripts {
        client.batch_execute(&format!("BEGIN; {script}; SELECT FROM t; COMMIT")).await.expect("the path is as before");
    }
}

#[tokio::test]
async fn nothing_of_ours_writes_an_outbox_with_more_rights_than_its_owner_has() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        run(&outbox.admin, TRIGGERS).await;
        run(&outbox.app, INVALIDATE).await;
        run(&outbox.app, TRAP).await;
        run(&outbox.app, "CREATE TRIGGER trap BEFORE INSERT ON crieur.outbox FOR EACH ROW EXECUTE FUNCTION trap()")
            .await;
        run(&outbox.admin, "CREATE ROLE writer LOGIN; CREATE SCHEMA theirs AUTHORIZATION writer").await;
        run(&outbox.app, "GRANT USAGE ON SCHEMA crieur TO writer").await;
        for role in ["postgres", "writer"] {
            let sql = "CREATE TABLE theirs.t (id int); ALTER TABLE theirs.t ADD city text; DROP TABLE theirs.t;
                       SELECT crieur.invalidate('a*'), crieur.invalidate_exact('a')";
            run(&session(&outbox.server, role).await, sql).await;
        }
        assert_eq!(ask(&outbox.app, RAN).await, "app");
        assert!(!outbox.server.log().contains("crieur was not told"), "{}", outbox.server.log());
        // Functions that became another's since: they say so, and lose no key in silence.
        run(
            &outbox.admin,
            "ALTER FUNCTION crieur.announce_keys OWNER TO postgres; ALTER FUNCTION crieur.invalidate OWNER TO postgres",
        )
        .await;
        let why = "crieur.outbox belongs to app and the functions of crieur to postgres";
        assert_eq!(refused(&outbox.app, "SELECT crieur.invalidate('a*')").await, why);
        assert_eq!(ask(&outbox.app, RAN).await, "app");
    }
}

/// Types are looked for among a session's temporary ones, unless the path names those last; a domain's check is code.
#[tokio::test]
async fn types_of_the_caller_s_own_run_nothing_with_the_owner_s_rights() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        run(&outbox.app, INVALIDATE).await;
        run(&outbox.app, TRAP).await;
        run(&outbox.app, "CREATE TABLE t (id int PRIMARY KEY, city text); SELECT crieur.watch('t')").await;
        run(&outbox.admin, "CREATE ROLE caller LOGIN; GRANT ALL ON t TO caller").await;
        run(&outbox.app, "SELECT crieur.grant_worker('caller')").await;
        let caller = session(&outbox.server, "caller").await;
        run(
            &caller,
            "CREATE FUNCTION pg_temp.trap(pg_catalog.text) RETURNS bool LANGUAGE plpgsql AS
                          $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN true; END $$",
        )
        .await;
        for kind in ["text", "\"char\"", "oid", "name", "regclass", "jsonb", "bool", "int4", "int8"] {
            let own = format!(
                "CREATE DOMAIN pg_temp.{kind} AS pg_catalog.{kind} CHECK (pg_temp.trap(value::pg_catalog.text))"
            );
            run(&caller, &own).await;
        }
        for sql in [
            "INSERT INTO t VALUES (1, 'a'); UPDATE t SET city = 'b'; INSERT INTO t SELECT generate_series(2, 9), 'c'",
            "UPDATE t SET city = id; DELETE FROM t WHERE id < 5; TRUNCATE t",
            "SELECT crieur.invalidate('a'), crieur.invalidate_exact('a'), crieur.close_collapsed(), crieur.shrink()",
        ] {
            run(&caller, sql).await;
        }
        run(&outbox.app, "ALTER TABLE t ALTER city TYPE varchar").await;
        run(&caller, "SELECT crieur.refresh(); SELECT FROM crieur.watched").await;
        assert_eq!(ask(&outbox.app, "SELECT bool_or(stale)::pg_catalog.text FROM crieur.watched").await, "false");
        // The view's own functions run as whoever reads it.
        assert_eq!(
            ask(&outbox.app, &RAN.replace("FROM public.ran", "FROM public.ran WHERE who <> 'caller'")).await,
            ""
        );
    }
}

#[tokio::test]
async fn no_script_runs_or_adopts_what_another_role_made() {
    for version in Version::ALL {
        let server = Postgres::start(postgres::Options { version, ..Default::default() });
        for sql in ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"] {
            run(&server.client().await, sql).await;
        }
        let (admin, app) = (session(&server, "postgres").await, session(&server, "app").await);
        run(&app, TRAP).await;
        run(&app, "CREATE SCHEMA crieur").await;
        for script in [INSTALL, INVALIDATE] {
            assert_eq!(refused(&admin, script).await, "schema crieur belongs to app");
        }
        let squat = "CREATE FUNCTION crieur.version() RETURNS int LANGUAGE plpgsql AS
                         $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN 1; END $$;
                     CREATE FUNCTION crieur.announce_ddl() RETURNS event_trigger LANGUAGE plpgsql AS
                         $$ BEGIN INSERT INTO public.ran VALUES (current_user); END $$";
        run(&app, squat).await;
        assert_eq!(refused(&admin, INSTALL).await, "schema crieur belongs to app");
        assert_eq!(refused(&admin, TRIGGERS).await, "function crieur.announce_ddl() belongs to app");
        run(&admin, "CREATE TABLE t (id int); ALTER TABLE t ADD city text").await;
        // The same in a schema of one's own.
        run(&app, "DROP SCHEMA crieur CASCADE").await;
        run(&admin, "CREATE ROLE other LOGIN; CREATE SCHEMA crieur; GRANT CREATE, USAGE ON SCHEMA crieur TO app").await;
        run(&app, "CREATE TABLE crieur.setting (id int)").await;
        for script in [INSTALL, INVALIDATE] {
            assert_eq!(refused(&admin, script).await, "table crieur.setting belongs to app");
        }
        run(&app, &format!("DROP TABLE crieur.setting; {squat}")).await;
        assert!(refused(&admin, INSTALL).await.ends_with("belongs to app"));
        assert_eq!(ask(&admin, RAN).await, "");
        // Whoever owns it may, and a superuser's function in it is no obstacle.
        run(&app, "DROP FUNCTION crieur.version, crieur.announce_ddl").await;
        run(&admin, "ALTER SCHEMA crieur OWNER TO app").await;
        run(&admin, TRIGGERS).await;
        for script in [INSTALL, INVALIDATE, INSTALL, INVALIDATE] {
            run(&app, script).await;
        }
    }
}

#[tokio::test]
async fn a_superuser_runs_no_code_of_the_schema_s_owner() {
    let outbox = Outbox::start(Version::ALL[0]).await;
    let scene = Scene::outbox().await;
    let url = format!("postgres://postgres@127.0.0.1:{}/app", outbox.server.port());
    let config = scene.config().replace(&scene.postgres.url(), &url);
    for command in ["check", "setup", "run"] {
        let out = daemon::run(command, &config, &[]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains("whose code would run as a superuser"), "{command}: {said}");
        assert_eq!(out.status.code(), Some(77), "{command}");
    }
}

#[tokio::test]
async fn setup_brings_older_functions_up_to_date() {
    let scene = Scene::start().await;
    let older = "ALTER FUNCTION crieur.announce_ddl() SECURITY DEFINER;
                 CREATE OR REPLACE FUNCTION crieur.announce_keys(notice jsonb) RETURNS void
                     LANGUAGE plpgsql SECURITY DEFINER AS
                     $$ BEGIN INSERT INTO crieur.outbox (op, note) VALUES ('M', notice); END $$";
    let state = "SELECT string_agg(concat_ws(' ', proname, prosecdef, md5(prosrc)), ', ' ORDER BY proname) FROM pg_proc
                 WHERE pronamespace = 'crieur'::regnamespace";
    let ready = scene.ask(state).await;
    scene.run(older).await;
    assert_ne!(scene.ask(state).await, ready);
    let told = |command| String::from_utf8_lossy(&daemon::run(command, &scene.config(), &[]).stdout).into_owned();
    assert_eq!(told("check").matches("of another version").count(), 2, "{}", told("check"));
    told("setup");
    assert_eq!(scene.ask(state).await, ready);
    assert_eq!(told("setup"), "nothing to do\n");
}

/// Functions and operators that take the place of the server's own where names go by the role's path.
const OVERLOADS: &str = "
    CREATE SCHEMA trap;
    DO $do$
    DECLARE
        head text;
    BEGIN
        FOREACH head IN ARRAY ARRAY[
            'current_setting(text) RETURNS text', 'current_database() RETURNS name', 'pg_is_in_recovery() RETURNS bool',
            'to_jsonb(anyelement) RETURNS jsonb', 'pg_has_role(oid, text) RETURNS bool',
            'has_database_privilege(name, text) RETURNS bool', 'strpos(text, text) RETURNS int',
            'unnest(anyarray) RETURNS SETOF anyelement', 'format_type(oid, int) RETURNS text',
            'to_regprocedure(text) RETURNS regprocedure', 'jsonb_array_elements(jsonb) RETURNS SETOF jsonb',
            'same(oid, oid) RETURNS bool', 'same(name, name) RETURNS bool', 'same(\"char\", \"char\") RETURNS bool'
        ] LOOP
            EXECUTE format('CREATE FUNCTION trap.%s LANGUAGE plpgsql AS $$ BEGIN RAISE ''trapped''; END $$', head);
        END LOOP;
        FOREACH head IN ARRAY ARRAY['oid', 'name', '\"char\"'] LOOP
            EXECUTE format('CREATE OPERATOR trap.= (LEFTARG = %1$s, RIGHTARG = %1$s, FUNCTION = trap.same)', head);
        END LOOP;
    END
    $do$;
    ALTER ROLE postgres SET search_path = trap, public, pg_catalog";

#[tokio::test]
async fn nothing_in_the_search_path_takes_the_place_of_the_server_s_own() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, postgres::Options::default(), &[]).await;
        scene.run(OVERLOADS).await;
        match mode {
            Mode::Replication => scene.run("DROP PUBLICATION crieur; DROP SCHEMA crieur CASCADE").await,
            Mode::Outbox => scene.run("SELECT crieur.unwatch('public.properties')").await,
        }
        for command in ["setup", "setup", "check"] {
            let out = daemon::run(command, &scene.config(), &[]);
            assert!(out.status.success(), "{mode:?} {command}: {out:?}");
        }
        let mut daemon = scene.daemon().await;
        let gone = scene.change(&daemon, "UPDATE properties SET title = 'b' WHERE id = 1").await;
        assert!(!gone.is_empty(), "{}", daemon.log());
        assert!(!scene.postgres.log().contains("trapped"), "{}", scene.postgres.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// What docs/guide/replication.md says undoes everything leaves no identity of ours.
#[tokio::test]
async fn undone_as_the_guide_says_no_replica_identity_is_left() {
    let page = include_str!("../../docs/guide/replication.md");
    let undo = page.split("-- undo\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it says how");
    let scene = Scene::with(postgres::Options::default(), &[]).await;
    scene.run("CREATE TABLE plain (id int PRIMARY KEY, kind int NOT NULL)").await;
    let config = format!("{}\n[[rules]]\ntable = \"plain\"\nkeys = [\"plain:{{kind}}\"]\n", scene.config());
    let out = daemon::run("setup", &config, &[]);
    assert!(out.status.success(), "{out:?}");
    let identities = "SELECT string_agg(DISTINCT relreplident::text, '' ORDER BY relreplident::text) FROM pg_class
                      WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    assert_eq!(scene.ask(identities).await, "dfi");
    for sql in undo.split(";\n").map(str::trim).filter(|sql| !sql.is_empty()) {
        // Statements that print statements.
        if sql.contains("format(") {
            let rows = scene.sql.query(sql, &[]).await.expect("valid SQL");
            for row in rows {
                scene.run(row.get(0)).await;
            }
        } else {
            scene.run(sql).await;
        }
    }
    assert_eq!(scene.ask(identities).await, "d");
    let left = "SELECT count(*)::text FROM pg_class WHERE relname LIKE '%crieur%'";
    assert_eq!(scene.ask(left).await, "0");
}
