--- Two columns make the key; text compares by the column's collation.
-- table t: a int key, b text:latin1_bin key, c double null
-- update t (1, b'x', 1.5) -> (1, b'x', -0.0)
-- delete t (2, b'caf\xe9', None), (1, b'z', None)

DELETE /*+ INDEX(`t` `PRIMARY`) */ FROM `t` WHERE (`a`,`b`) IN ((1,_latin1'z'),(2,_latin1'caf\xe9'));
UPDATE (VALUES ROW(1,_latin1'x',-0.0e0)) AS n(c0,c1,c2) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`a`=n.c0 AND t.`b`=n.c1 COLLATE latin1_bin SET t.`c`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
