--- A key change is an UPDATE of the key; a chain of them is one.
-- table p: id int key, v int
-- update p (1, 10) -> (2, 10)
-- update p (2, 10) -> (3, 11)

UPDATE (VALUES ROW(1,3,11)) AS n(o0,c0,c1) STRAIGHT_JOIN `p` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.o0 SET t.`id`=n.c0,t.`v`=n.c1;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
