-- The tables of the chat. May be run again and again.

CREATE TABLE IF NOT EXISTS room (
    name text PRIMARY KEY,
    last_number bigint NOT NULL
);

-- number: 1, 2, 3 ... in each room, without a hole, in the order of the commits.
-- key: chosen by the sender, so that a message that is sent again is there once.
CREATE TABLE IF NOT EXISTS message (
    room text NOT NULL REFERENCES room,
    number bigint NOT NULL,
    key uuid NOT NULL UNIQUE,
    author text NOT NULL,
    body text NOT NULL,
    posted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (room, number)
);
