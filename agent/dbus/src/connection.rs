//! A connection to a bus.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::address;
use crate::error::DbusError;
use crate::message::{self, Arrived, PREFIX_BYTES, Signal};
use crate::value::Value;

/// Time for an answer: firewalld takes seconds to load its rules anew.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A line of the greeting is no longer than this.
const LINE_BYTES_MAX: usize = 1024;
/// Signals that are kept until somebody waits for them; a service that sends more of those asked for is not waited for.
const SIGNALS_MAX: usize = 256;

/// What is called.
#[derive(Debug, Clone, Copy)]
pub struct Method<'a> {
    /// The service's name.
    pub destination: &'a str,
    /// The object.
    pub path: &'a str,
    /// The interface.
    pub interface: &'a str,
    /// The method.
    pub member: &'a str,
}

/// A connection; it ends when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    serial: u32,
    signals: VecDeque<Signal>,
    has_bus: bool,
}

impl Connection {
    /// Connects to the system's bus.
    pub fn system() -> Result<Self, DbusError> {
        Self::at(&address::system())
    }

    /// Connects to the bus at an address, `unix:path=…`.
    pub fn at(address: &str) -> Result<Self, DbusError> {
        let mut connection = Self::direct(address)?;
        connection.call(&of_bus("Hello"), &[])?;
        connection.has_bus = true;
        Ok(connection)
    }

    /// Connects to a service that listens at an address itself, without a bus between.
    pub fn direct(address: &str) -> Result<Self, DbusError> {
        let unreachable = |source| DbusError::Unreachable {
            address: address.to_owned(),
            source,
        };
        let mut stream = Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "it names no socket of a file",
        ));
        for socket in address::sockets(address) {
            stream = UnixStream::connect(socket);
            if stream.is_ok() {
                break;
            }
        }
        let mut stream = stream.map_err(unreachable)?;
        stream
            .set_write_timeout(Some(ANSWER_WITHIN))
            .map_err(unreachable)?;
        stream
            .set_read_timeout(Some(ANSWER_WITHIN))
            .map_err(unreachable)?;
        let answer = greet(&mut stream).map_err(unreachable)?;
        if !answer.starts_with("OK ") {
            return Err(DbusError::Rejected {
                address: address.to_owned(),
                answer,
            });
        }
        Ok(Self {
            stream,
            serial: 0,
            signals: VecDeque::new(),
            has_bus: false,
        })
    }

    /// Calls a method and returns what it answers.
    pub fn call(&mut self, method: &Method<'_>, arguments: &[Value]) -> Result<Vec<Value>, DbusError> {
        let shown = || format!("{}.{}", method.interface, method.member);
        let lost = |source| DbusError::Lost {
            call: shown(),
            source,
        };
        self.serial += 1;
        let message = message::call(self.serial, method, arguments);
        self.stream.write_all(&message).map_err(lost)?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            match self.arrived(deadline, &shown)? {
                Arrived::Return { to, body } if to == self.serial => return Ok(body),
                Arrived::Error { to, name, body } if to == self.serial => {
                    let message = body
                        .first()
                        .and_then(Value::as_text)
                        .unwrap_or_default()
                        .to_owned();
                    return Err(DbusError::Failed {
                        call: shown(),
                        name,
                        message,
                    });
                }
                Arrived::Signal(signal) => self.keep(signal),
                Arrived::Return { .. } | Arrived::Error { .. } | Arrived::Other => {}
            }
        }
    }

    /// Asks for the signals that a rule of the bus chooses, such as `type='signal',member='JobRemoved'`. Without a bus
    /// between, all of the service's arrive.
    pub fn subscribe(&mut self, rule: &str) -> Result<(), DbusError> {
        if !self.has_bus {
            return Ok(());
        }
        self.call(&of_bus("AddMatch"), &[Value::text(rule)]).map(|_| ())
    }

    /// The first signal that is right, of those that have arrived since they were asked for and those that will.
    pub fn await_signal(
        &mut self,
        within: Duration,
        right: impl Fn(&Signal) -> bool,
    ) -> Result<Signal, DbusError> {
        let deadline = Instant::now() + within;
        loop {
            while let Some(signal) = self.signals.pop_front() {
                if right(&signal) {
                    return Ok(signal);
                }
            }
            if let Arrived::Signal(signal) = self.arrived(deadline, &|| "a signal".to_owned())? {
                self.keep(signal);
            }
        }
    }

    fn keep(&mut self, signal: Signal) {
        if self.signals.len() == SIGNALS_MAX {
            self.signals.pop_front();
        }
        self.signals.push_back(signal);
    }

    /// The next message.
    fn arrived(&mut self, deadline: Instant, call: &dyn Fn() -> String) -> Result<Arrived, DbusError> {
        let lost = |source| DbusError::Lost { call: call(), source };
        let mut prefix = [0; PREFIX_BYTES];
        self.read(&mut prefix, deadline).map_err(lost)?;
        let mut message = vec![0; message::length(&prefix)?];
        message[..PREFIX_BYTES].copy_from_slice(&prefix);
        self.read(&mut message[PREFIX_BYTES..], deadline).map_err(lost)?;
        message::read(&message)
    }

    /// As `read_exact`, which would give each piece the whole time.
    fn read(&mut self, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn of_bus(member: &str) -> Method<'_> {
    Method {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member,
    }
}

/// Says who we are, which the bus checks by the socket's credentials, and returns its answer.
fn greet(stream: &mut UnixStream) -> io::Result<String> {
    let user: String = rustix::process::geteuid()
        .as_raw()
        .to_string()
        .bytes()
        .map(|digit| format!("{digit:02x}"))
        .collect();
    // The last line goes with the first, before the answer: systemd's own socket forgets to look at a message that arrives
    // together with it.
    stream.write_all(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > LINE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
