//! The real server, in this process, on a free port, spoken to over a plain socket.

mod client;
mod front_door;
mod hostile;
mod pushing;
mod reading;
mod sample;
