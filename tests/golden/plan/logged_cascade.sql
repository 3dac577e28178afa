--- The child rows of a logged cascade run as the source ran them: unchecked.
-- table p: id int key, v int
-- table c: id int key, p int null -> p.id cascade
-- settings: checks cascades_logged
-- update c (1, 5) -> (1, 6)!
-- update p (5, 0) -> (6, 0)

UPDATE /*+ SET_VAR(foreign_key_checks=OFF) */ (VALUES ROW(1,6)) AS n(c0,c1) STRAIGHT_JOIN `c` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`p`=n.c1;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
UPDATE (VALUES ROW(5,6,0)) AS n(o0,c0,c1) STRAIGHT_JOIN `p` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.o0 SET t.`id`=n.c0,t.`v`=n.c1;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
