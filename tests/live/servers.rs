//! The harness itself: every server that the tests count on starts, answers and comes back.

use super::harness::postgres::{self, Postgres, Version};
use super::harness::redis::{Data, Redis, Server};

#[tokio::test]
async fn every_postgresql_starts_answers_and_comes_back() {
    for version in Version::ALL {
        let mut server = Postgres::start(postgres::Options { version, ..Default::default() });
        let client = server.client().await;
        client.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await.expect("valid SQL");
        drop(client);
        server.restart(postgres::Shutdown::Fast);
        let row = server.client().await.query_one("SELECT a, current_setting('wal_level') FROM t", &[]).await;
        let row = row.expect("the table is still there");
        assert_eq!((1, "logical"), (row.get::<_, i32>(0), row.get(1)));
    }
}

#[test]
fn every_cache_starts_answers_and_comes_back() {
    for server in Server::ALL {
        let mut cache = Redis::start(server, &[]);
        let _: () = ::redis::cmd("SET").arg("a").arg("1").query(&mut cache.connection()).expect("it is writable");
        for (data, kept) in [(Data::Kept, true), (Data::Lost, false)] {
            cache.restart(data);
            let found: bool = ::redis::cmd("EXISTS").arg("a").query(&mut cache.connection()).expect("it answers");
            assert_eq!(kept, found, "{server:?} {data:?}");
        }
    }
}
