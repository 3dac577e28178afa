--- Where the log does not say what a deferrable key was, every update is parked, and deletes with them.
-- table t: id int key, code blob null unique deferrable, v int
-- settings: partial
-- update t (1, …, …) -> (1, b'a', 0)
-- update t (2, …, …) -> (2, …, 1)
-- delete t (3, …, …)
-- insert t (4, b'x', 0)
-- update t (4, …, …) -> (4, b'y', 0)

UPDATE (VALUES ROW(1,NULL),ROW(3,NULL)) AS n(c0,c1) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`code`=n.c1;
DO IF(ROW_COUNT()=2,0,(SELECT 1 UNION ALL SELECT 2));
UPDATE (VALUES ROW(1,_binary'a',0)) AS n(c0,c1,c2) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`code`=n.c1,t.`v`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
UPDATE (VALUES ROW(2,1)) AS n(c0,c2) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`v`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
DELETE /*+ INDEX(`t` `PRIMARY`) */ FROM `t` WHERE `id` IN (3);
INSERT INTO `t` (`id`,`code`,`v`) VALUES (4,_binary'y',0);
