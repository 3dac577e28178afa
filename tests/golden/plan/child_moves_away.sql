--- The child has moved before its parent goes, or the cascade would take it.
-- table p: id int key, v int
-- table c: id int key, p int null -> p.id cascade
-- settings: checks cascades_logged
-- update c (1, 5) -> (1, 6)
-- delete p (5, 0)

UPDATE (VALUES ROW(1,6)) AS n(c0,c1) STRAIGHT_JOIN `c` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`p`=n.c1;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
DELETE /*+ INDEX(`p` `PRIMARY`) */ FROM `p` WHERE `id` IN (5);
