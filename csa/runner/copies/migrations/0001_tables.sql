-- Sessions, what was said in them, and how far the copy has come. Only csa writes here; read as you like.

CREATE TABLE csa.session (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,              -- the csa that copies it: its host, and its state root
    host text NOT NULL,                -- where the session is, and where to act on it
    project text NOT NULL,
    id text NOT NULL,                  -- its ULID
    public_id text NOT NULL,           -- what clients of the chat API call it: their UUID, or the same
    name text,
    title text,
    owner text,
    tool text,                         -- of the last turn
    status text NOT NULL,              -- as csa ls shows it, when it was copied last
    turns bigint NOT NULL,
    parent_session_id text,
    parent_host text,                  -- if the parent is on another host
    root_session_id text,
    depth bigint NOT NULL,
    created_at timestamptz,
    last_active_at timestamptz,
    closed_at timestamptz,
    is_deleted boolean NOT NULL,       -- in the trash, until it is purged
    deleted_at timestamptz,
    input_tokens bigint,
    output_tokens bigint,
    cost_usd double precision,
    UNIQUE (source, host, project, id)
);
CREATE INDEX session_id ON csa.session (id);
CREATE INDEX session_owner ON csa.session (owner, last_active_at DESC);

CREATE TABLE csa.message (
    id bigint GENERATED ALWAYS AS IDENTITY,
    session_id text NOT NULL,
    message_type text NOT NULL,        -- chat, or thought
    sender text NOT NULL,              -- user, agent or system
    content jsonb NOT NULL,            -- {"content": TEXT}; of a tool call also "tool_result": [TITLE, OUTPUT]
    "timestamp" bigint NOT NULL,       -- seconds
    session bigint NOT NULL REFERENCES csa.session (key) ON DELETE CASCADE,
    seq bigint NOT NULL,               -- the number of its first event
    turn bigint NOT NULL,
    tool text,
    model text,
    at timestamptz,
    PRIMARY KEY (session, seq)
);
CREATE INDEX message_session_type ON csa.message (session_id, message_type, "timestamp");

CREATE TABLE csa.progress (
    session bigint PRIMARY KEY REFERENCES csa.session (key) ON DELETE CASCADE,
    inode text NOT NULL,               -- of its transcript
    read_bytes bigint NOT NULL,
    digest text NOT NULL,              -- of the last line that was read
    turn_at bigint NOT NULL,           -- where its last turn begins
    stamp text NOT NULL                -- of its files, while nothing can change without them
);
