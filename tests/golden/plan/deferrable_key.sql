--- The key that rows are told apart by changes hands: they are told apart by all they hold, and found by their stand-ins.
-- table t: id int key deferrable, v int
-- update t (1, 10) -> (2, 10)
-- update t (2, 20) -> (1, 20)
-- insert t (3, 31)
-- delete t (3, 30)

UPDATE (VALUES ROW(1,-1610612736),ROW(2,-1610612735),ROW(3,-1610612733)) AS n(o0,c0) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.o0 SET t.`id`=n.c0;
DO IF(ROW_COUNT()=3,0,(SELECT 1 UNION ALL SELECT 2));
UPDATE (VALUES ROW(-1610612736,2,10),ROW(-1610612735,1,20)) AS n(o0,c0,c1) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.o0 SET t.`id`=n.c0,t.`v`=n.c1;
DO IF(ROW_COUNT()=2,0,(SELECT 1 UNION ALL SELECT 2));
INSERT INTO `t` (`id`,`v`) VALUES (3,31);
DELETE /*+ INDEX(`t` `PRIMARY`) */ FROM `t` WHERE `id` IN (-1610612733);
