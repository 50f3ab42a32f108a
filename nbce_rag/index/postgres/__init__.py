"""An index in PostgreSQL, with pgvector: the same guarantees as a folder gives, for several machines.

One schema of the database holds one index. `passages` has texts and metadata and what is looked up of them,
`vectors` their vectors in float32, and `state`, a single row, is what writers take turns by: whoever changes
something locks that row first, and a transaction makes the change seen, all of it or nothing. A read is one
snapshot (REPEATABLE READ). Importing this needs the extra `nbce-rag[postgres]`.
"""
