use std::sync::Arc;

use crate::{Cluster as _, ClusterError, Memory, Ownership, SessionKey};

impl Ownership for Memory {
    async fn claim(&self, sessions: &[SessionKey], _: Option<&str>) -> Result<Vec<Arc<str>>, ClusterError> {
        self.0.sessions.lock().extend(sessions);
        Ok(vec![self.incarnation(); sessions.len()])
    }

    async fn owner(&self, session: SessionKey) -> Result<Option<Arc<str>>, ClusterError> {
        Ok(self.0.sessions.lock().contains(&session).then(|| self.incarnation()))
    }

    async fn release(&self, sessions: &[SessionKey]) -> Result<(), ClusterError> {
        let mut own = self.0.sessions.lock();
        own.retain(|session| !sessions.contains(session));
        Ok(())
    }
}
