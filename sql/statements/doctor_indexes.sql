-- doctor_indexes: lists the indexes of our tables.
-- Parameters: none.
-- Returns: name, whether it is valid, its kind, its table, and the columns that it reads, also in its predicate.
-- Loaded by: dispatcher/ops/doctor/schema.py
-- Index: the catalogue's.
SELECT
    c.relname::text,
    i.indisvalid AND i.indisready,
    m.amname::text,
    t.relname::text,
    ARRAY(
        SELECT DISTINCT a.attname::text
        FROM pg_depend AS d
        JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass
          AND d.objid = c.oid
          AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid = i.indrelid
          AND d.refobjsubid > 0
        ORDER BY 1
    )
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS t ON t.oid = i.indrelid
JOIN pg_am AS m ON m.oid = c.relam
WHERE t.relnamespace = to_regnamespace('messaging')
