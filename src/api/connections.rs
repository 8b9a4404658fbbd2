//! Limits on connections, and the choice of the connection that is closed for a new one.
//!
//! An idle client never keeps out a new one. The connection that has been idle longest is closed instead: of the same
//! user if that user has as many as one may have, else of all. A client that reads no answer is idle as well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::unistd::Uid;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Connections at a time, without those that follow events.
const MAX_CONNECTIONS: usize = 128;
/// The same of one user.
const MAX_OF_USER: usize = 64;
/// Connections that follow events.
const MAX_STREAMS: usize = 64;
/// The same of one user.
const MAX_STREAMS_OF_USER: usize = 48;

/// All connections.
#[derive(Clone, Default)]
pub(super) struct Connections {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

struct Entry {
    uid: Uid,
    activity: Activity,
    /// Start of the connection, or the end of the last answer.
    idle_since: Instant,
    close: CancellationToken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Waits for a request, or for the client to read an answer.
    Idle,
    /// Computes an answer.
    Answering,
    /// Sends events.
    Streaming,
}

/// One connection; counted until dropped.
pub(super) struct Connection {
    id: u64,
    connections: Connections,
    close: CancellationToken,
}

/// An activity of a connection, which is idle again when this is dropped.
pub(super) struct Busy {
    connection: Arc<Connection>,
    activity: Activity,
}

impl Connections {
    /// Counts a connection of `uid`, and closes another if there are too many. None if all are being answered.
    pub(super) fn admit(&self, uid: Uid) -> Option<Connection> {
        let mut table = self.table();
        if table.count(Some(uid), false) >= MAX_OF_USER {
            table.close_longest_idle(Some(uid))?;
        } else if table.count(None, false) >= MAX_CONNECTIONS {
            table.close_longest_idle(None)?;
        }
        let id = table.next;
        table.next += 1;
        let close = CancellationToken::new();
        let entry = Entry { uid, activity: Activity::Idle, idle_since: Instant::now(), close: close.clone() };
        table.entries.insert(id, entry);
        Some(Connection { id, connections: self.clone(), close })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Connections of `uid` or of all: those that follow events, or the others.
    fn count(&self, uid: Option<Uid>, streaming: bool) -> usize {
        let counted = |entry: &&Entry| (entry.activity == Activity::Streaming) == streaming && entry.is_of(uid);
        self.entries.values().filter(counted).count()
    }

    /// Closes the connection that has been idle longest, of `uid` or of all. None if none is idle.
    fn close_longest_idle(&mut self, uid: Option<Uid>) -> Option<()> {
        let idle = self.entries.iter().filter(|(_, entry)| entry.activity == Activity::Idle && entry.is_of(uid));
        let (&id, _) = idle.min_by_key(|(_, entry)| entry.idle_since)?;
        self.entries.remove(&id)?.close.cancel();
        Some(())
    }
}

impl Entry {
    fn is_of(&self, uid: Option<Uid>) -> bool {
        uid.is_none_or(|uid| uid == self.uid)
    }
}

impl Connection {
    /// Marks the connection as being answered.
    pub(super) fn answering(self: &Arc<Self>) -> Busy {
        if let Some(entry) = self.connections.table().entries.get_mut(&self.id) {
            entry.activity = Activity::Answering;
        }
        Busy { connection: Arc::clone(self), activity: Activity::Answering }
    }

    /// Marks the connection as following events. None if too many do.
    pub(super) fn streaming(self: &Arc<Self>) -> Option<Busy> {
        let mut table = self.connections.table();
        let uid = table.entries.get(&self.id)?.uid;
        if table.count(None, true) >= MAX_STREAMS || table.count(Some(uid), true) >= MAX_STREAMS_OF_USER {
            return None;
        }
        table.entries.get_mut(&self.id)?.activity = Activity::Streaming;
        Some(Busy { connection: Arc::clone(self), activity: Activity::Streaming })
    }

    /// Waits until the connection has to be closed for another.
    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.table().entries.remove(&self.id);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut table = self.connection.connections.table();
        // A stream goes on when the answer that began it has been computed.
        if let Some(entry) = table.entries.get_mut(&self.connection.id).filter(|e| e.activity == self.activity) {
            (entry.activity, entry.idle_since) = (Activity::Idle, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ONE: Uid = Uid::from_raw(1);
    const OTHER: Uid = Uid::from_raw(2);

    async fn admit(connections: &Connections, uid: Uid) -> Arc<Connection> {
        tokio::time::advance(Duration::from_millis(1)).await;
        Arc::new(connections.admit(uid).unwrap())
    }

    async fn admit_many(connections: &Connections, uid: Uid, count: usize) -> Vec<Arc<Connection>> {
        let mut admitted = Vec::new();
        for _ in 0..count {
            admitted.push(admit(connections, uid).await);
        }
        admitted
    }

    /// The places of those that were closed.
    fn closed(admitted: &[Arc<Connection>]) -> Vec<usize> {
        (0..admitted.len()).filter(|n| admitted[*n].close.is_cancelled()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn longest_idle_of_the_user_is_closed() {
        let connections = Connections::default();
        let other = admit(&connections, OTHER).await;
        let own = admit_many(&connections, ONE, MAX_OF_USER).await;
        // The first has asked something since; the second is being answered, the third follows events.
        drop(own[0].answering());
        let answering = own[1].answering();
        let begun = own[2].answering();
        let streaming = own[2].streaming().unwrap();
        drop(begun);
        let _fourth = admit(&connections, ONE).await;
        assert!(closed(&own).is_empty(), "a stream is not counted");
        let _fifth = admit(&connections, ONE).await;
        assert_eq!(closed(&own), [3]);
        drop((answering, streaming));
        assert!(!other.close.is_cancelled(), "another user pays nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn longest_idle_of_all_is_closed_when_full() {
        let connections = Connections::default();
        let mut all = Vec::new();
        for n in 0..MAX_CONNECTIONS {
            all.push(admit(&connections, Uid::from_raw(u32::try_from(n).unwrap())).await);
        }
        let next = admit(&connections, Uid::from_raw(9999)).await;
        assert_eq!(closed(&all), [0]);
        let answering: Vec<_> = all.iter().chain([&next]).map(Connection::answering).collect();
        assert!(connections.admit(ONE).is_none(), "all are being answered");
        drop(answering);
        assert!(connections.admit(ONE).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_user_leaves_room_for_others() {
        let connections = Connections::default();
        let own = admit_many(&connections, ONE, MAX_OF_USER).await;
        let answering: Vec<_> = own.iter().map(Connection::answering).collect();
        assert!(connections.admit(ONE).is_none());
        let other = admit(&connections, OTHER).await;
        drop(answering);
        let streams = own.iter().filter_map(Connection::streaming).collect::<Vec<_>>();
        assert_eq!(streams.len(), MAX_STREAMS_OF_USER);
        assert!(other.streaming().is_some());
        assert!(closed(&own).is_empty());
    }
}
