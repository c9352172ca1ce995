//! What a process writes, read by a thread of its own so that it never waits for a test.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// One of its streams of text.
#[derive(Debug)]
pub(crate) struct Output {
    said: Arc<(Mutex<Said>, Condvar)>,
    reader: Option<JoinHandle<()>>,
    /// How far lines were waited for, in bytes.
    seen: usize,
}

#[derive(Debug, Default)]
struct Said {
    text: String,
    is_over: bool,
}

impl Output {
    /// Reads until the end.
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Output {
        let said = Arc::<(Mutex<Said>, Condvar)>::default();
        let shared = said.clone();
        let reader = std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                lock(&shared).text.push_str(&String::from_utf8_lossy(&line));
                shared.1.notify_all();
                line.clear();
            }
            lock(&shared).is_over = true;
            shared.1.notify_all();
        });
        Output { said, reader: Some(reader), seen: 0 }
    }

    /// Waits for a line with `text` that comes after those waited for before; gives it without its end.
    pub(crate) fn wait_for_line(&mut self, text: &str, deadline: Instant) -> Option<String> {
        let mut said = lock(&self.said);
        loop {
            while let Some(length) = said.text[self.seen..].find('\n') {
                let line = said.text[self.seen..self.seen + length].to_owned();
                self.seen += length + 1;
                if line.contains(text) {
                    return Some(line);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if said.is_over || left.is_zero() {
                return None;
            }
            said = self.said.1.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All so far.
    pub(crate) fn text(&self) -> String {
        lock(&self.said).text.clone()
    }

    /// All, once whoever may write is gone.
    pub(crate) fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        self.text()
    }
}

fn lock(said: &(Mutex<Said>, Condvar)) -> MutexGuard<'_, Said> {
    said.0.lock().unwrap_or_else(PoisonError::into_inner)
}
