-- Many users: a role reads the sessions whose owner it is, and nothing else: `alice` those of alice and of alice@HOST, as
-- csa ls --owner alice. The role that copies, which owns the tables, sees everything. Nobody else may read before you
-- grant it: see docs/copies.md.

ALTER TABLE csa.session ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_owner ON csa.session FOR SELECT
    USING (current_user::text IN (owner, split_part(owner, '@', 1)));

ALTER TABLE csa.message ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_owner ON csa.message FOR SELECT
    USING (EXISTS (
        SELECT FROM csa.session s
        WHERE s.key = message.session AND current_user::text IN (s.owner, split_part(s.owner, '@', 1))
    ));

ALTER TABLE csa.progress ENABLE ROW LEVEL SECURITY;

-- With the rights of whoever asks, or it would show everybody's.
CREATE VIEW csa.conversation WITH (security_invoker = true) AS
    SELECT s.host, s.project, s.owner, s.title, s.status, s.is_deleted,
        m.session_id, m.seq, m.turn, m.message_type, m.sender, m.content ->> 'content' AS text,
        m.content -> 'tool_result' AS tool_result, m.tool, m.model, m.at
    FROM csa.message m JOIN csa.session s ON s.key = m.session;
