--- Carefully, a row to be parked may be missing.
-- table t: id int key, pos int unique deferrable
-- settings: careful
-- update t (1, 1), (2, 2) -> (1, 2), (2, 1)

UPDATE (VALUES ROW(1,-1610612736),ROW(2,-1610612735)) AS n(c0,c1) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`id`=n.c0,t.`pos`=n.c1;
UPDATE (VALUES ROW(1,2),ROW(2,1)) AS n(c0,c1) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`id`=n.c0,t.`pos`=n.c1;
INSERT INTO `t` (`id`,`pos`) SELECT n.c0,n.c1 FROM (VALUES ROW(1,2),ROW(2,1)) AS n(c0,c1) LEFT JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 WHERE t.`id`<=>NULL;
